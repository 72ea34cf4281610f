"""metadata.jsonl, the imagefolder convention with two text columns: its rows, and the rules for the two texts.

A row may instead hold one caption in the column "text", as public data sets do; then `Reading` says what the target is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spf.config import MAX_TEXT
from spf.data.captions import Reading, read_caption
from spf.data.problems import Problem, shown
from spf.method.phrases import split_phrases

METADATA = "metadata.jsonl"
MASKS = "masks"  # a folder beside pictures: where the target is in each, under its name; not pictures to train on
KEYS = ("file_name", "base_text", "target_text")
CAPTION, REPEATS = "text", "repeats"  # further columns that are read
MAX_REPEATS = 1000
EXAMPLE = (
    '{"file_name": "a.png", "base_text": "a portrait of a person with red hair", "target_text": "a winter hat"}')
MAX_METADATA_BYTES = 64 * 2**20

_NEEDS = 'every line needs {"file_name": "...", "base_text": "...", "target_text": "..."}'
_EXAMPLES = json.loads(EXAMPLE)
_JSON_TYPES = {
    int: "a number", float: "a number", bool: "true or false", type(None): "null", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class Row:
    """One picture and its texts; white space in them is normalised, and a text that is no text is ""."""

    line: int  # of metadata.jsonl, from 1; 0 where the texts come from elsewhere
    file_name: str
    base_text: str
    target_text: str
    repeats: int = 1  # how often an epoch shows the picture


def read_rows(path: Path, reading: Reading = Reading()) -> tuple[list[Row], list[Problem]]:
    """Every line that names a file, and what is wrong with the lines; OSError if the file itself cannot be read.

    A row may be listed although its line also has a problem: its picture can then still be looked at.
    """
    with path.open("rb") as stream:
        content = stream.read(MAX_METADATA_BYTES + 1)
    if len(content) > MAX_METADATA_BYTES:
        message = f"is larger than {MAX_METADATA_BYTES // 2**20} MiB; split the set into several folders"
        return [], [Problem(METADATA, 0, "bad-metadata", message)]
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return [], [Problem(METADATA, 0, "bad-metadata", "is saved as UTF-16; save it as UTF-8")]
    rows, problems = [], []
    for line, text in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if text.strip():
            row, found = read_row(line, text, reading)
            problems += found
            rows += [row] if row else []
    return rows, problems


def read_row(line: int, text: bytes, reading: Reading = Reading()) -> tuple[Row | None, list[Problem]]:
    """One line; no row if it does not name a file."""
    try:
        values = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError:
        return None, [Problem("", line, "not-utf8", "is not UTF-8 text; save metadata.jsonl as UTF-8")]
    except (ValueError, RecursionError) as error:  # not only JSONDecodeError: integers of 5,000 digits, deep nesting
        reason = f"{error.msg}, character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        return None, [Problem("", line, "bad-json", f"is not valid JSON ({shown(reason)}); {_NEEDS}")]
    if not isinstance(values, dict):
        return None, [Problem("", line, "not-an-object", f"is not a JSON object; {_NEEDS}")]
    values, complaints = _with_two_texts(values, reading)
    name, base, target = (value if isinstance(value := values.get(key), str) else "" for key in KEYS)
    repeats = 1 if _repeats_complaints(values) else values.get(REPEATS, 1)
    row = Row(line, name, clean(base), clean(target), repeats) if _complaint(values, "file_name") is None else None
    return row, [Problem(name, line, kind, message) for kind, message in complaints]


def _with_two_texts(values: dict[str, Any], reading: Reading) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The values with base and target text, and (kind, message) of everything that is wrong with them."""
    complaints = _repeats_complaints(values)
    if not isinstance(values.get(CAPTION), str) or not values.keys().isdisjoint(KEYS[1:]):
        return values, complaints + _complaints(values, KEYS)
    texts = read_caption(clean(values[CAPTION]), reading)
    values = values | {"base_text": texts.base_text, "target_text": texts.target_text}
    if not texts.kind:
        return values, complaints + _complaints(values, KEYS)
    return values, complaints + [(texts.kind, texts.message), *_complaints(values, KEYS[:1])]


def to_line(file_name: str, base_text: str, target_text: str, repeats: int = 1) -> str:
    """One line of metadata.jsonl, line feed included."""
    values: dict[str, Any] = dict(zip(KEYS, (file_name, base_text, target_text), strict=True))
    return json.dumps(values | ({REPEATS: repeats} if repeats != 1 else {}), ensure_ascii=False) + "\n"


def clean(text: str) -> str:
    """White space as in config.GenerationRequest, so that training and generation see the same string."""
    return " ".join(text.split())


def text_complaints(base_text: str, target_text: str) -> list[tuple[str, str]]:
    """(kind, message) of everything that makes this pair of texts unusable."""
    return _complaints({"base_text": base_text, "target_text": target_text}, KEYS[1:])


def names_target(base_text: str, target_text: str) -> bool:
    """Whether the base text already says the target phrase, as whole words."""
    target = _plain(target_text)
    return bool(target) and re.search(rf"(?<!\w){re.escape(target)}(?!\w)", _plain(base_text)) is not None


def _complaints(values: dict[str, Any], keys: tuple[str, ...]) -> list[tuple[str, str]]:
    found = {key: complaint for key in keys if (complaint := _complaint(values, key))}
    if KEYS[1] in keys and found.keys().isdisjoint(KEYS[1:]) and _plain(values["base_text"]) == _plain(values["target_text"]):
        message = "'target_text' equals 'base_text'; write only what should change"
        found["target_text"] = ("target-equals-base", message)
    return list(found.values())


def _repeats_complaints(values: dict[str, Any]) -> list[tuple[str, str]]:
    repeats = values.get(REPEATS, 1)
    if type(repeats) is int and 1 <= repeats <= MAX_REPEATS:
        return []
    return [("bad-repeats", f"'{REPEATS}' must be a whole number from 1 to {MAX_REPEATS}")]


def _complaint(values: dict[str, Any], key: str) -> tuple[str, str] | None:
    """(kind, message) of what makes the value of one key unusable."""
    if key not in values:
        return "missing-key", f"has no '{key}'; {_NEEDS}"
    text = values[key]
    if not isinstance(text, str):
        kind = _JSON_TYPES.get(type(text), type(text).__name__)
        return "wrong-type", f"'{key}' is {kind}, not text; put text in quotes there"
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        return "bad-characters", f"'{key}' holds a NUL or half a character; remove it"
    if len(text) > MAX_TEXT:
        return "text-too-long", f"'{key}' has {len(text):,} characters; use at most {MAX_TEXT:,}"
    if not (text.strip() if key == "file_name" else split_phrases(clean(text))):
        return "empty-text", f"'{key}' says nothing; write for example '{_EXAMPLES[key]}'"
    return None


def _plain(text: str) -> str:
    return clean(text).strip(" ,.").casefold()
