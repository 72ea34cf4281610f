"""Picture folders to disk: staged beside their place, then renamed, so that a half-written one is never seen."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from spf.data import pictures
from spf.data.captions import Reading
from spf.data.check import Report, check_folder
from spf.data.metadata import MASKS, METADATA, text_complaints, to_line
from spf.data.pictures import MINIMUM_SIZE, BadPicture
from spf.data.problems import count, shown
from spf.data.records import Record, read_folder
from spf.errors import DataError
from spf.files import probe, replace_folder

_PICTURE = r"\d{5,}\.png"
UPLOAD_SIDE = 1024  # pixels: the shorter side of a stored upload is at most this

Picture = str | Path | Image.Image


def write_folder(folder: Path, items: Iterable[tuple[Image.Image, str, str]]) -> int:
    """Write (picture, base_text, target_text) items as PNG files and metadata.jsonl; the number of pictures.

    Replaces an empty folder, and one that holds only what this function wrote. Anything else there, an unusable text,
    no item at all, or a full disk is a DataError, and what was there before is still there.
    """
    folder = Path(os.path.realpath(folder))
    _refuse_foreign(folder)
    staged = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}.partial")
    try:
        with _writing(folder):
            staged.mkdir(parents=True)
        written = _fill(staged, folder, items)
        with _writing(folder):
            replace_folder(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return written


def require_free(folder: Path) -> None:
    """Raises DataError if `write_folder` could not write there, because of what it holds or where it is. Leaves nothing."""
    folder = Path(os.path.realpath(folder))
    _refuse_foreign(folder)
    with _writing(folder):
        probe(folder)


def records_to_copy(folder: Path, out: Path, reading: Reading = Reading()) -> list[Record]:
    """The records of a folder that are about to be written anew to `out`, in part or changed.

    Raises DataError naming every problem, and where `write_folder` could not write to `out` or would replace the pictures.
    """
    require_free(out)
    records = read_folder(folder, reading=reading)
    if os.path.realpath(out) in {os.path.realpath(record.path.parent) for record in records}:
        raise DataError(f"--out: {shown(str(out), 200)} is where the pictures come from, which would be lost; "
                        "choose another folder")
    return records


def save_upload(
    uploads: Sequence[Picture], base_texts: str | Sequence[str], target_text: str, folder: Path,
    *, minimum_size: int = MINIMUM_SIZE,
) -> Report:
    """Store pictures that a user gave, with one shared target phrase, as a picture folder; its report, which is `ok`.

    `base_texts`: one per picture, or one for all. Pictures are stored upright, without EXIF data, the shorter side
    at most UPLOAD_SIDE pixels. Raises DataError naming every unusable picture and text; then nothing is written.
    """
    texts = _one_per_picture(base_texts, len(uploads))
    write_folder(folder, _upload_items(uploads, texts, target_text, minimum_size))
    return check_folder(folder, minimum_size=minimum_size)


def _one_per_picture(base_texts: str | Sequence[str], pictures_given: int) -> list[str]:
    texts = [base_texts] if isinstance(base_texts, str) else list(base_texts)
    if not pictures_given:
        raise DataError("pictures: none were given; add some PNG, JPEG or WebP files")
    if len(texts) not in (1, pictures_given):
        raise DataError(
            f"base_text: {count(len(texts), 'text')} for {count(pictures_given, 'picture')}; "
            "give one for each picture, or one for all")
    return texts * pictures_given if len(texts) == 1 else texts


def _upload_items(
    uploads: Sequence[Picture], base_texts: Sequence[str], target_text: str, minimum_size: int
) -> Iterator[tuple[Image.Image, str, str]]:
    """Items for `write_folder`; after the last upload, one DataError for all that were bad."""
    problems: list[str] = []
    for index, (upload, base_text) in enumerate(zip(uploads, base_texts, strict=True), start=1):
        name = f"picture {index}" if isinstance(upload, Image.Image) else Path(upload).name
        complaints = [message for _, message in text_complaints(base_text, target_text)]
        try:
            picture = _load_upload(upload, name, minimum_size)
        except BadPicture as error:
            complaints.insert(0, error.reason)
        problems += [f"{shown(name)}: {complaint}" for complaint in complaints]
        if not problems:
            yield picture, base_text, target_text
    if problems:
        raise DataError(f"pictures: {count(len(problems), 'problem')}; correct them and try again", problems)


def _load_upload(upload: Picture, name: str, minimum_size: int) -> Image.Image:
    if not isinstance(upload, Image.Image):
        return pictures.load_whole(Path(upload), UPLOAD_SIDE, minimum_size)
    pictures.refuse_huge(upload.size, name)
    pictures.refuse_small(upload, name, minimum_size)
    return pictures.shrink(upload, UPLOAD_SIDE)


def _refuse_foreign(folder: Path) -> None:
    """Raises DataError if `folder` holds anything that `write_folder` would not have written."""
    with _writing(folder):
        if not os.path.lexists(folder):
            return
        if not folder.is_dir():
            raise DataError(f"{shown(str(folder), 200)} is a file; choose another folder")
        names = sorted(os.listdir(folder))
        foreign = [name for name in names if not _is_own(folder / name)]
    if names and METADATA not in names:
        foreign = foreign or names
    if foreign:
        raise DataError(
            f"{shown(str(folder), 200)} already holds other files ({shown(foreign[0])}, {len(foreign):,} in all); "
            "choose another folder, or empty this one")


def _is_own(path: Path) -> bool:
    """Whether something in a picture folder has a name that is given here, or is a folder of masks, also one begun."""
    if path.name in (MASKS, f".{MASKS}.partial") and path.is_dir():
        return all(re.fullmatch(_PICTURE, name) for name in os.listdir(path))
    return path.name == METADATA or re.fullmatch(_PICTURE, path.name) is not None


def _fill(staged: Path, folder: Path, items: Iterable[tuple[Image.Image, str, str]]) -> int:
    lines: list[str] = []
    for image, base_text, target_text in items:
        name = f"{len(lines):05d}.png"
        for _, message in text_complaints(base_text, target_text):
            raise DataError(f"picture {len(lines) + 1}: {message}")
        with _writing(folder):
            _save_png(image, staged / name)
        lines.append(to_line(name, base_text, target_text))
    if not lines:
        raise DataError("pictures: there are none to write; ask for at least one")
    with _writing(folder):
        (staged / METADATA).write_text("".join(lines), encoding="utf-8", newline="\n")
    return len(lines)


def _save_png(image: Image.Image, path: Path) -> None:
    """Pixels only: the same picture gives the same bytes, whatever its origin left in `info`."""
    plain = image.convert("RGB")
    plain.info = {}
    plain.save(path, format="PNG")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error}); free some space or choose another folder"
        raise DataError(f"{shown(str(folder), 200)} {reason}") from error
