"""File names inside a picture folder: which are pictures, which lead outside, which a system may confuse."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from spf.data.pictures import SUFFIXES

PICTURE_SUFFIXES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
# Pictures that cameras, phones and browsers save and that are not read: left out without a word, they would be missed late.
FOREIGN_SUFFIXES = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".jfif", ".gif", ".bmp", ".tif", ".tiff", ".dng", ".cr2", ".cr3",
                    ".nef", ".arw")


def is_picture(name: str) -> bool:
    """Whether the name looks like a picture of a supported format, and is not hidden."""
    return name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")


def files_below(root: Path) -> Iterator[str]:
    """Names, relative to root and with '/', of all files; hidden folders and linked folders are left out."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            yield Path(folder, name).relative_to(root).as_posix()


def pictures_below(root: Path) -> list[str]:
    """Those of `files_below` that look like a picture, sorted."""
    return sorted(name for name in files_below(root) if is_picture(name.rpartition("/")[2]))


def foreign_below(root: Path) -> list[str]:
    """Those of `files_below` that say they are pictures of a kind that is not read, sorted."""
    return sorted(name for name in files_below(root) if name.lower().endswith(FOREIGN_SUFFIXES)
                  and not name.rpartition("/")[2].startswith("."))


def leaves(root: Path, name: str) -> bool:
    """Whether a file name is absolute, climbs, or is a link to somewhere outside root; Windows spellings included."""
    windows = PureWindowsPath(name)  # knows '/', '\\', drives and shares
    if windows.root or ".." in windows.parts:
        return True
    return not Path(os.path.realpath(root / name)).is_relative_to(os.path.realpath(root))


def fold(name: str) -> str:
    """Equal for names that some file systems take for the same: upper case, and how an accent is stored."""
    return unicodedata.normalize("NFC", name).casefold()
