"""How pictures and texts lie in a folder: metadata.jsonl, a caption file beside each picture, or kohya's `N_name` folders.

Whatever the layout, the outcome is the same rows, so nothing after this file asks which it was.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

from spf.data import metadata
from spf.data.captions import Reading, read_caption
from spf.data.metadata import EXAMPLE, MASKS, MAX_REPEATS, METADATA, Row, clean
from spf.data.names import files_below, foreign_below, leaves, pictures_below
from spf.data.problems import Problem, count, shown

REMEDY = (
    f"put {METADATA} into it with one line per picture: {EXAMPLE}; or a .txt file with a caption beside each picture; "
    "`python -m spf dataset render --attribute winter-hat --count 16 --out DIR` writes an example")
CAPTION_SUFFIXES = (".txt", ".caption")
MAX_CAPTION_BYTES = 64 * 2**10

_KOHYA = re.compile(r"(\d{1,6})_(.+)")


@dataclass(frozen=True)
class Layout:
    """What a folder lists. A row may be here although there is also a problem with it."""

    root: Path  # what the rows' file names are relative to
    kind: str  # "metadata", "captions", "kohya", or "" if nothing is listed
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def read_layout(folder: Path, reading: Reading = Reading()) -> Layout:
    """The rows of a folder and what is wrong with them; pictures are not opened. Never raises for what is in it."""
    try:
        return _read(folder, reading)
    except OSError as error:
        message = f"{shown(str(error), 200)}; check the folder's permissions"
        return Layout(folder, "", problems=[Problem("", 0, "unreadable", message)])


def _read(folder: Path, reading: Reading) -> Layout:
    name = shown(str(folder), 200)
    if not os.path.isdir(folder):  # pathlib's is_dir raises for names that are too long
        what = "is not a folder; name the folder that holds the pictures" if os.path.exists(folder) else (
            "does not exist; name a folder of pictures")
        return _refused(folder, "missing-folder", f"folder '{name}' {what}")
    for root in (folder, folder / "train"):
        if os.path.isfile(root / METADATA):
            rows, problems = metadata.read_rows(root / METADATA, reading)
            return Layout(root, "metadata", rows, problems, _unread_captions(root))
    if not os.listdir(folder):
        return _refused(folder, "empty-folder", f"folder '{name}' is empty; {REMEDY}")
    found = [name for name in pictures_below(folder) if MASKS not in name.split("/")[:-1]]
    if any(_kohya(picture) for picture in found):
        return _captioned(folder, "kohya", found, reading)
    files = set(files_below(folder))
    if any(_caption_names(picture) & files for picture in found) or found and reading.base_text and reading.target_texts:
        return _captioned(folder, "captions", found, reading)
    if not found and (foreign := foreign_below(folder)):
        message = (f"folder '{name}' holds {count(len(foreign), 'picture')}, none of a kind that is read ({shown(foreign[0])}); "
                   "save them as PNG, JPEG or WebP")
        return _refused(folder, "foreign-picture", message)
    message = f"folder '{name}' holds {count(len(found), 'picture')} and no {METADATA}; {REMEDY}"
    return _refused(folder, "missing-metadata", message)


def _unread_captions(root: Path) -> list[Problem]:
    beside = {name for picture in pictures_below(root) for name in _caption_names(picture)} & set(files_below(root))
    message = f"{count(len(beside), 'caption file')} beside the pictures will not be read, since {METADATA} holds the texts"
    return [Problem("", 0, "unread-captions", message)] if beside else []


def _refused(folder: Path, kind: str, message: str) -> Layout:
    return Layout(folder, "", problems=[Problem("", 0, kind, message)])


def _captioned(root: Path, kind: str, pictures: list[str], reading: Reading) -> Layout:
    files, layout = set(files_below(root)), Layout(root, kind)
    for picture in pictures:
        repeats, own = _repeats(picture, reading) if kind == "kohya" else (1, reading)
        if repeats is None:
            continue  # beside the N_name folders, where kohya's trainers do not look either: reported as unlisted
        base, target = _row_texts(layout, picture, sorted(_caption_names(picture) & files), own)
        if not 1 <= repeats <= MAX_REPEATS:
            message = f"its folder asks for {repeats:,} repeats; write a number from 1 to {MAX_REPEATS} before the '_'"
            layout.problems.append(Problem(picture, 0, "bad-repeats", message))
        layout.rows.append(Row(0, picture, base, target, repeats))
    captioned = {name for picture in pictures for name in _caption_names(picture)}
    for name in sorted(files):
        if name.endswith(CAPTION_SUFFIXES) and name not in captioned:
            layout.warnings.append(Problem(name, 0, "caption-without-picture", "is a caption without a picture beside it"))
    return layout


def _row_texts(layout: Layout, picture: str, captions: list[str], reading: Reading) -> tuple[str, str]:
    """Base and target text of a picture; what is wrong with them is added to the layout's problems."""
    if len(captions) > 1:
        message = f"has two captions, {shown(captions[0])} and {shown(captions[1])}; keep one"
        layout.problems.append(Problem(picture, 0, "two-captions", message))
    text = _caption(layout.root, captions[0]) if captions else ""
    if isinstance(text, Problem):
        layout.problems.append(replace(text, file=picture))
        return "", ""
    texts = read_caption(clean(text), reading)
    complaints = [(texts.kind, texts.message)] if texts.kind else metadata.text_complaints(
        texts.base_text, texts.target_text)
    layout.problems.extend(Problem(picture, 0, kind, message) for kind, message in complaints)
    return texts.base_text, texts.target_text


def _caption(root: Path, name: str) -> str | Problem:
    """The text of a caption file, which may be one of many kinds of trap."""
    if leaves(root, name):
        return Problem(name, 0, "escapes-folder", f"its caption {shown(name)} leads outside the folder; copy the text into it")
    try:
        status = os.stat(root / name)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_CAPTION_BYTES:
            message = f"its caption {shown(name)} is no text file of at most {MAX_CAPTION_BYTES // 2**10} KiB; replace it"
            return Problem(name, 0, "bad-caption", message)
        return (root / name).read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError:
        return Problem(name, 0, "not-utf8", f"its caption {shown(name)} is not UTF-8 text; save it as UTF-8")
    except OSError as error:
        return Problem(name, 0, "unreadable", f"its caption {shown(name)} cannot be read ({error.strerror}); correct it")


def _caption_names(picture: str) -> set[str]:
    stem = picture[:picture.rindex(".")]
    return {stem + suffix for suffix in CAPTION_SUFFIXES}


def _kohya(picture: str) -> re.Match[str] | None:
    """The `N_name` folder that directly holds the picture."""
    parts = picture.split("/")
    return _KOHYA.fullmatch(parts[-2]) if len(parts) > 1 else None


def _repeats(picture: str, reading: Reading) -> tuple[int | None, Reading]:
    """N of the folder, None where there is none; the folder's name is the target where no other was given."""
    match = _kohya(picture)
    if match is None:
        return None, reading
    name = clean(match[2].replace("_", " "))
    return int(match[1]), reading if reading.target_texts else replace(reading, target_texts=(name,))
