"""One report about a picture folder that names every bad file, before anything is trained on it."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spf.data import buckets, likeness, metadata, pictures
from spf.data.captions import Reading
from spf.data.layouts import Layout, read_layout
from spf.data.metadata import EXAMPLE, MASKS, METADATA, Row
from spf.data.names import fold, foreign_below, leaves, pictures_below
from spf.data.pictures import MINIMUM_SIZE, SUFFIXES, BadPicture, Facts
from spf.data.problems import Problem, count, shown

FEW_PICTURES = 8
MANY_PHRASES = 8
WARNINGS_SHOWN = 50

# (base text, target text) -> whether the model can use them, and what to say about them; None if they fit its window
Window = Callable[[str, str], tuple[bool, str] | None]


@dataclass(frozen=True)
class Report:
    """What `check_folder` found. Problems forbid training, warnings do not."""

    folder: Path
    layout: str = ""  # how the texts lie there: a Layout.kind
    pictures: int = 0  # rows that can be trained on
    shown_per_epoch: int = 0  # the same, counted as often as their repeats say
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    targets: Mapping[str, int] = field(default_factory=dict)  # target phrase -> rows, the most frequent first
    smallest: tuple[int, int] | None = None  # (width, height) in pixels of the picture with the fewest
    largest: tuple[int, int] | None = None
    buckets: Mapping[str, int] = field(default_factory=dict)  # of `aspect_ratio_buckets`, where a resolution was given

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_text(self) -> str:
        """Some lines for a person; names every problem."""
        verdict = "ready to train" if self.ok else count(len(self.problems), "problem")
        repeats = f", shown {self.shown_per_epoch:,} times per epoch" if self.shown_per_epoch != self.pictures else ""
        lines = [f"{shown(str(self.folder), 200)}: {count(self.pictures, 'usable picture')}{repeats}, {verdict}."]
        if self.targets:
            phrases = [f"'{shown(phrase)}' ({number})" for phrase, number in list(self.targets.items())[:MANY_PHRASES]]
            lines.append(f"Target phrases ({len(self.targets)}): {', '.join(phrases)}")
        if self.smallest and self.largest:
            lines.append("Sizes: {}x{} to {}x{}".format(*self.smallest, *self.largest))
        if self.buckets:
            lines.append(f"With aspect_ratio_buckets: {buckets.in_words(self.buckets)}")
        lines += _section("Problems", self.problems, len(self.problems))
        lines += _section("Warnings", self.warnings, WARNINGS_SHOWN)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values for JSON."""
        return {
            "folder": shown(str(self.folder), 4096),
            "layout": self.layout,
            "ok": self.ok,
            "pictures": self.pictures,
            "shown_per_epoch": self.shown_per_epoch,
            "problems": [problem.to_dict() for problem in self.problems],
            "warnings": [warning.to_dict() for warning in self.warnings],
            "targets": dict(self.targets),
            "smallest": self.smallest,
            "largest": self.largest,
            "buckets": dict(self.buckets),
        }


def check_folder(folder: Path, *, minimum_size: int = MINIMUM_SIZE, reading: Reading = Reading(),
                 window: Window | None = None, resolution: int | None = None) -> Report:
    """Look at every line and every picture of a folder. Never raises for what is in it.

    `minimum_size` is the shortest side, in pixels, that a picture may have. `reading` says what captions are split by,
    `window` whether the model's text encoder can read a pair of texts, `resolution` what squares the model draws.
    """
    return examine(folder, minimum_size, reading, window, resolution)[0]


def examine(folder: Path, minimum_size: int, reading: Reading = Reading(),
            window: Window | None = None, resolution: int | None = None) -> tuple[Report, list[tuple[Path, Row]]]:
    """The report, and (path of the picture, row) of each row that has no problem."""
    layout = read_layout(Path(folder), reading)
    if not layout.kind:
        return Report(folder, problems=tuple(layout.problems), warnings=tuple(layout.warnings)), []
    check = _Check(layout, minimum_size, window)
    check.run()
    return check.report(folder, resolution), [(layout.root / row.file_name, row) for row in check.usable()]


class _Check:
    """The state of one check: what was found so far."""

    def __init__(self, layout: Layout, minimum_size: int, window: Window | None):
        self.layout, self.root, self.rows = layout, layout.root, layout.rows
        self.minimum_size = minimum_size
        self.window = window
        self.problems = list(layout.problems)
        self.warnings = list(layout.warnings)
        self.facts: dict[str, Facts | Problem] = {}  # by normalised file name
        self.on_disk = pictures_below(self.root)
        self.folded = {fold(name): name for name in self.on_disk}

    def run(self) -> None:
        if not self.rows and not self.problems:
            self.problems.append(Problem(METADATA, 0, "no-rows", f"lists no picture; expected lines like {EXAMPLE}"))
        for row in self.rows:
            self._picture(row)
        self._repeated_rows()
        self._texts_and_window()
        self._target_in_base()
        self._animations()
        self._same_content()
        self._nearly_same_content()
        self._colliding_names()
        self._unlisted()
        self._whole_set()
        self.problems.sort(key=lambda problem: problem.line)

    def usable(self) -> list[Row]:
        """Rows without a problem on their line, or with their file where no line lists it."""
        bad = {_place(problem.line, problem.file) for problem in self.problems}
        return [row for row in self.rows if _place(row.line, row.file_name) not in bad]

    def report(self, folder: Path, resolution: int | None = None) -> Report:
        usable = self.usable()
        sizes = sorted((self._facts(row).size for row in usable), key=lambda size: size[0] * size[1])
        shapes = buckets.counted(buckets.bucket_of(self._facts(row).upright, resolution) for row in usable) if resolution else {}
        targets = Counter(row.target_text for row in usable)
        return Report(
            folder, self.layout.kind, len(usable), sum(row.repeats for row in usable), tuple(self.problems),
            tuple(self.warnings), dict(targets.most_common()),
            sizes[0] if sizes else None, sizes[-1] if sizes else None, shapes)

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
        if leaves(self.root, row.file_name):
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
        wanted = fold(posixpath.normpath(name.replace("\\", "/")))
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

    def _texts_and_window(self) -> None:
        for row in self.usable() if self.window else []:
            found = self.window(row.base_text, row.target_text)
            if found is None:
                continue
            usable, message = found
            if usable:
                self._warn(row, "text-cut", message)
            else:
                self.problems.append(Problem(row.file_name, row.line, "text-too-long-for-model", message))

    def _animations(self) -> None:
        for row in self.rows:
            facts = self.facts[_key(row)]
            if isinstance(facts, Facts) and facts.frames > 1:
                self._warn(row, "animated", f"is an animation of {facts.frames:,} frames; only the first one is used")

    def _nearly_same_content(self) -> None:
        distinct = {facts.digest: (row, facts) for row in reversed(self.rows)
                    if isinstance(facts := self.facts[_key(row)], Facts)}
        rows = sorted(distinct.values(), key=lambda found: self.rows.index(found[0]))
        for second, first in likeness.near_pairs([facts.likeness for _, facts in rows]):
            row, other = rows[second][0], rows[first][0]
            where = f" (line {other.line})" if other.line else ""
            message = f"looks almost the same as {shown(other.file_name)}{where}; keep one unless both are wanted"
            self._warn(row, "near-duplicate", message)

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
                where = f" (line {other.line})" if other.line else ""
                message = f"is the same picture as {shown(other.file_name)}{where}; keep one of them"
                self._warn(row, "duplicate-picture", message)

    def _colliding_names(self) -> None:
        first: dict[str, str] = {}
        for row in self.rows:
            other = first.setdefault(fold(_key(row)), _key(row))
            if other != _key(row):
                message = f"differs from {shown(other)} only in upper case or accents; not every system keeps both"
                self._warn(row, "colliding-names", message)

    def _unlisted(self) -> None:
        listed = {_key(row) for row in self.rows}
        for name in self.on_disk:
            if name not in listed and posixpath.basename(posixpath.dirname(name)) != MASKS:
                self.warnings.append(Problem(name, 0, "unlisted", "is not listed and will not be used"))
        message = "is a picture of a kind that is not read and will not be used; save it as PNG, JPEG or WebP"
        self.warnings += [Problem(name, 0, "foreign-picture", message) for name in foreign_below(self.root) if name not in listed]

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

    def _facts(self, row: Row) -> Facts:
        facts = self.facts[_key(row)]
        assert isinstance(facts, Facts)  # usable rows have no problem
        return facts


def _key(row: Row) -> str:
    return posixpath.normpath(row.file_name)


def _texts(row: Row) -> tuple[str, str]:
    return row.base_text, row.target_text


def _place(line: int, file: str) -> int | str:
    return line or file


def _section(title: str, problems: tuple[Problem, ...], limit: int) -> list[str]:
    lines = [f"  {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  +{len(problems) - limit:,} more")
    return [f"{title}:", *lines] if lines else []
