"""One report about a picture folder that names every bad file, before anything is trained on it."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from spf.data import metadata, pictures
from spf.data.metadata import EXAMPLE, METADATA, Row
from spf.data.pictures import MINIMUM_SIZE, SUFFIXES, BadPicture, Facts
from spf.data.problems import Problem, count, shown

REMEDY = (
    f"put {METADATA} into it with one line per picture: {EXAMPLE}; "
    "`python -m spf dataset render --attribute winter-hat --count 16 --out DIR` writes an example")
FEW_PICTURES = 8
MANY_PHRASES = 8
WARNINGS_SHOWN = 50

_ALL_SUFFIXES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)


@dataclass(frozen=True)
class Report:
    """What `check_folder` found. Problems forbid training, warnings do not."""

    folder: Path
    pictures: int = 0  # rows that can be trained on
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    targets: Mapping[str, int] = field(default_factory=dict)  # target phrase -> rows, the most frequent first
    smallest: tuple[int, int] | None = None  # (width, height) in pixels of the picture with the fewest
    largest: tuple[int, int] | None = None

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_text(self) -> str:
        """Some lines for a person; names every problem."""
        verdict = "ready to train" if self.ok else count(len(self.problems), "problem")
        lines = [f"{shown(str(self.folder), 200)}: {count(self.pictures, 'usable picture')}, {verdict}."]
        if self.targets:
            phrases = [f"'{shown(phrase)}' ({number})" for phrase, number in list(self.targets.items())[:MANY_PHRASES]]
            lines.append(f"Target phrases ({len(self.targets)}): {', '.join(phrases)}")
        if self.smallest and self.largest:
            lines.append("Sizes: {}x{} to {}x{}".format(*self.smallest, *self.largest))
        lines += _section("Problems", self.problems, len(self.problems))
        lines += _section("Warnings", self.warnings, WARNINGS_SHOWN)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values for JSON."""
        return {
            "folder": shown(str(self.folder), 4096),
            "ok": self.ok,
            "pictures": self.pictures,
            "problems": [problem.to_dict() for problem in self.problems],
            "warnings": [warning.to_dict() for warning in self.warnings],
            "targets": dict(self.targets),
            "smallest": self.smallest,
            "largest": self.largest,
        }


def check_folder(folder: Path, *, minimum_size: int = MINIMUM_SIZE) -> Report:
    """Look at every line and every picture of a folder. Never raises for what is in it.

    `minimum_size` is the shortest side, in pixels, that a picture may have.
    """
    return examine(folder, minimum_size)[0]


def examine(folder: Path, minimum_size: int) -> tuple[Report, list[tuple[Path, Row]]]:
    """The report, and (path of the picture, row) of each row that has no problem."""
    root = _root(Path(folder))
    if isinstance(root, Problem):
        return Report(folder, problems=(root,)), []
    try:
        rows, problems = metadata.read_rows(root / METADATA)
    except OSError as error:
        return Report(folder, problems=(_unreadable(error),)), []
    check = _Check(root, minimum_size, rows, problems)
    check.run()
    return check.report(folder), [(root / row.file_name, row) for row in check.usable()]


def _root(folder: Path) -> Path | Problem:
    """The folder that holds metadata.jsonl, which may be the subfolder 'train', or why there is none."""
    name = shown(str(folder), 200)
    if not os.path.isdir(folder):  # pathlib's is_dir raises for names that are too long
        what = "is not a folder; name the folder that holds the pictures" if os.path.exists(folder) else (
            "does not exist; name a folder of pictures")
        return Problem("", 0, "missing-folder", f"folder '{name}' {what}")
    for root in (folder, folder / "train"):
        if os.path.isfile(root / METADATA):
            return root
    try:
        entries = os.listdir(folder)
    except OSError as error:
        return _unreadable(error)
    if not entries:
        return Problem("", 0, "empty-folder", f"folder '{name}' is empty; {REMEDY}")
    found = count(sum(entry.lower().endswith(_ALL_SUFFIXES) for entry in entries), "picture")
    return Problem("", 0, "missing-metadata", f"folder '{name}' holds {found} and no {METADATA}; {REMEDY}")


class _Check:
    """The state of one check: what was found so far."""

    def __init__(self, root: Path, minimum_size: int, rows: list[Row], problems: list[Problem]):
        self.root = root
        self.minimum_size = minimum_size
        self.rows = rows
        self.problems = problems
        self.warnings: list[Problem] = []
        self.facts: dict[str, Facts | Problem] = {}  # by normalised file name
        self.on_disk = sorted(_pictures_below(root))
        self.folded = {_fold(name): name for name in self.on_disk}

    def run(self) -> None:
        if not self.rows and not self.problems:
            self.problems.append(Problem(METADATA, 0, "no-rows", f"lists no picture; expected lines like {EXAMPLE}"))
        for row in self.rows:
            self._picture(row)
        self._repeated_rows()
        self._target_in_base()
        self._same_content()
        self._colliding_names()
        self._unlisted()
        self._whole_set()
        self.problems.sort(key=lambda problem: problem.line)

    def usable(self) -> list[Row]:
        """Rows without a problem on their line."""
        bad = {problem.line for problem in self.problems}
        return [row for row in self.rows if row.line not in bad]

    def report(self, folder: Path) -> Report:
        usable = self.usable()
        sizes = sorted((self._size(row) for row in usable), key=lambda size: size[0] * size[1])
        targets = Counter(row.target_text for row in usable)
        return Report(
            folder, len(usable), tuple(self.problems), tuple(self.warnings), dict(targets.most_common()),
            sizes[0] if sizes else None, sizes[-1] if sizes else None)

    def _picture(self, row: Row) -> None:
        """Inspect a row's picture once; every row that names it gets the problem."""
        key = _key(row)
        if key not in self.facts:
            self.facts[key] = self._inspect(row)
        found = self.facts[key]
        if isinstance(found, Problem):
            self.problems.append(Problem(row.file_name, row.line, found.kind, found.message))

    def _inspect(self, row: Row) -> Facts | Problem:
        path = self.root / row.file_name
        if _leaves(self.root, row.file_name):
            message = "points outside the folder; move the picture into it and name it relative to the folder"
            return Problem(row.file_name, row.line, "escapes-folder", message)
        try:
            facts = pictures.inspect_picture(path, self.minimum_size)
        except BadPicture as error:
            hint = self._similar(row.file_name) if error.kind == "missing-file" else ""
            return Problem(row.file_name, row.line, error.kind, error.reason + hint)
        if not row.file_name.lower().endswith(SUFFIXES[facts.format]):
            renamed = path.with_suffix(SUFFIXES[facts.format][0]).name
            message = f"holds a {facts.format} picture, which its name does not say; rename it to {shown(renamed)}"
            return Problem(row.file_name, row.line, "wrong-suffix", message)
        return facts

    def _similar(self, name: str) -> str:
        """Which file was probably meant: names differ in upper case, or in how an accent is stored, across systems."""
        wanted = _fold(posixpath.normpath(name.replace("\\", "/")))
        return f" (there is '{shown(self.folded[wanted])}')" if wanted in self.folded else ""

    def _repeated_rows(self) -> None:
        first: dict[str, list[Row]] = {}
        for row in self.rows:
            earlier = first.setdefault(_key(row), [])
            same = [other for other in earlier if _texts(other) == _texts(row)]
            if same:
                message = f"repeats line {same[0].line}; remove one of them"
                self.problems.append(Problem(row.file_name, row.line, "duplicate-row", message))
            elif earlier:
                self._warn(row, "repeated-picture", f"is listed on line {earlier[0].line} already, with other texts")
            earlier.append(row)

    def _target_in_base(self) -> None:
        for row in self.usable():
            if metadata.names_target(row.base_text, row.target_text):
                self._warn(row, "base-names-target", "base_text already says the target phrase; describe only the rest")

    def _same_content(self) -> None:
        first: dict[bytes, Row] = {}
        for row in self.rows:
            facts = self.facts[_key(row)]
            if isinstance(facts, Problem):
                continue
            other = first.setdefault(facts.digest, row)
            if _key(other) != _key(row):
                message = f"is the same picture as {shown(other.file_name)} (line {other.line}); keep one of them"
                self._warn(row, "duplicate-picture", message)

    def _colliding_names(self) -> None:
        first: dict[str, str] = {}
        for row in self.rows:
            other = first.setdefault(_fold(_key(row)), _key(row))
            if other != _key(row):
                message = f"differs from {shown(other)} only in upper case or accents; not every system keeps both"
                self._warn(row, "colliding-names", message)

    def _unlisted(self) -> None:
        listed = {_key(row) for row in self.rows}
        for name in self.on_disk:
            if name not in listed:
                self.warnings.append(Problem(name, 0, "unlisted", f"is not listed in {METADATA} and will not be used"))

    def _whole_set(self) -> None:
        usable = self.usable()
        phrases = {row.target_text.casefold() for row in usable}
        if 0 < len(usable) < FEW_PICTURES:
            message = f"{count(len(usable), 'picture')} may be too few to learn from; 16 to 64 work well"
            self.warnings.append(Problem("", 0, "few-pictures", message))
        if len(phrases) > MANY_PHRASES:
            message = f"{len(phrases)} different target phrases; one phrase, said one way, is learned best"
            self.warnings.append(Problem("", 0, "many-phrases", message))

    def _warn(self, row: Row, kind: str, message: str) -> None:
        self.warnings.append(Problem(row.file_name, row.line, kind, message))

    def _size(self, row: Row) -> tuple[int, int]:
        facts = self.facts[_key(row)]
        assert isinstance(facts, Facts)  # usable rows have no problem
        return facts.size


def _pictures_below(root: Path) -> Iterator[str]:
    """Names, relative to root and with '/', of what looks like a picture; hidden files and linked folders left out."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            if name.lower().endswith(_ALL_SUFFIXES) and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _leaves(root: Path, name: str) -> bool:
    """Whether a file name is absolute, climbs, or is a link to somewhere outside root; Windows spellings included."""
    windows = PureWindowsPath(name)  # knows '/', '\', drives and shares
    if windows.root or ".." in windows.parts:
        return True
    return not Path(os.path.realpath(root / name)).is_relative_to(os.path.realpath(root))


def _key(row: Row) -> str:
    return posixpath.normpath(row.file_name)


def _texts(row: Row) -> tuple[str, str]:
    return row.base_text, row.target_text


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _unreadable(error: OSError) -> Problem:
    return Problem("", 0, "unreadable", f"{shown(str(error), 200)}; check the folder's permissions")


def _section(title: str, problems: tuple[Problem, ...], limit: int) -> list[str]:
    lines = [f"  {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  +{len(problems) - limit:,} more")
    return [f"{title}:", *lines] if lines else []
