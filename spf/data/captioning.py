"""Captions for pictures that have none: a text file beside each, written by a model or anything else that reads pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from spf.data.captions import remove_phrase
from spf.data.layouts import CAPTION_SUFFIXES
from spf.data.metadata import MASKS, METADATA, clean
from spf.data.names import pictures_below
from spf.data.pictures import load_whole
from spf.data.problems import shown
from spf.errors import DataError

Caption = Callable[[Sequence[Image.Image]], list[str]]

AT_ONCE = 8
SIDE = 768  # pixels: the shorter side of what a captioner sees is at most this


def caption_folder(folder: Path, caption: Caption, targets: Sequence[str] = (), replace: bool = False) -> dict[str, Any]:
    """Write `a.txt` beside every picture `a.png` that has no caption, or beside all; which were written.

    A target phrase that a caption does not say is added to its end. Raises DataError for a folder whose texts are in
    metadata.jsonl, without pictures, or with a picture that cannot be read; every picture is read before any text is written.
    """
    names = pictures_of(folder)
    wanted = [name for name in names if replace or not _caption_file(folder / name).exists()]
    texts: dict[str, str] = {}
    for start in tqdm(range(0, len(wanted), AT_ONCE), desc="captioning", unit="batch", disable=not wanted):
        chunk = wanted[start:start + AT_ONCE]
        written = caption([load_whole(folder / name, SIDE) for name in chunk])
        texts |= {name: with_targets(text, targets) for name, text in zip(chunk, written, strict=True)}
    if silent := [name for name, text in texts.items() if not text]:
        raise DataError(f"{shown(silent[0])}: the captioner says nothing about it; write {Path(silent[0]).stem}.txt yourself")
    for name, text in texts.items():
        _write(_caption_file(folder / name), text)
    return {"pictures": len(names), "written": len(texts), "captions": texts}


def with_targets(text: str, targets: Sequence[str]) -> str:
    """The caption on one line, with those target phrases at its end that it does not say."""
    missing = [clean(phrase) for phrase in targets if remove_phrase(text, phrase) is None]
    return ", ".join(part for part in [clean(text).rstrip(" ,."), *missing] if part)


def pictures_of(folder: Path) -> list[str]:
    """Names of the pictures whose captions are files beside them. Raises DataError for a folder that has none."""
    for root in (folder, folder / "train"):
        if (root / METADATA).is_file():
            raise DataError(f"{shown(str(root / METADATA), 200)} holds the texts of this folder; change them there")
    names = [name for name in pictures_below(folder) if MASKS not in name.split("/")[:-1]] if folder.is_dir() else []
    if not names:
        raise DataError(f"folder '{shown(str(folder), 200)}' holds no PNG, JPEG or WebP pictures; name one that does")
    return names


def _caption_file(picture: Path) -> Path:
    """The one that is there, else where one would be."""
    files = [picture.with_suffix(suffix) for suffix in CAPTION_SUFFIXES]
    return next((file for file in files if file.exists()), files[0])


def _write(path: Path, text: str) -> None:
    staged = path.with_name(f".{path.name}.partial")
    try:
        staged.write_text(text + "\n", encoding="utf-8", newline="\n")
        os.replace(staged, path)
    except OSError as error:
        staged.unlink(missing_ok=True)
        reason = f"cannot be written ({error.strerror or error}); free some space or check its permissions"
        raise DataError(f"{shown(str(path), 200)} {reason}") from error
