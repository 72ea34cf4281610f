"""One finding about a picture folder, and how text that came from outside is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """What is wrong, where, and the remedy. `kind` is a stable word for programs, for example 'missing-file'."""

    file: str  # as written in the metadata, or "" if it is about the whole folder
    line: int  # of metadata.jsonl, from 1; 0 if it is about no line
    kind: str
    message: str

    def __str__(self) -> str:
        places = [f"line {self.line}"] * bool(self.line) + [shown(self.file)] * bool(self.file)
        return f"{', '.join(places)}: {self.message}" if places else self.message

    def to_dict(self) -> dict[str, Any]:
        return {"file": shown(self.file, len(self.file)), "line": self.line, "kind": self.kind, "message": self.message}


def shown(text: str, limit: int = 80) -> str:
    """Text safe to print: control characters and lone surrogates escaped, cut after `limit` characters."""
    kept = text if len(text) <= limit else text[: limit - 3] + "..."
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in kept)


def count(number: int, noun: str) -> str:
    """'1 picture', '1,200 pictures'."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
