"""Which of the tried settings a method gets: a rule stated once, applied to the result of an evaluation on the tuning split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spf.errors import InvalidInput

RULE = ("the highest share of untouched attributes kept, among settings with a target response of at least {floor:g} %; "
        "where none reaches it, the highest response")


@dataclass(frozen=True)
class Choice:
    """One table's row, and what was tried. `untouched` and `response` are per cent."""

    row: str
    title: str
    settings: dict[str, Any]  # dotted training settings, or the guide's, that the row is written with
    untouched: float | None
    response: float
    reaches_floor: bool
    tried: tuple[str, ...]


def choose(report: Mapping[str, Any]) -> dict[str, Choice]:
    """The chosen row of every table of a result (`table.json`); of equal ones the first.

    Raises InvalidInput for a table in which no row's response was measured.
    """
    return {name: _choice(report, name, table["rows"]) for name, table in report["config"]["tables"].items()}


def _choice(report: Mapping[str, Any], table: str, rows: list[str]) -> Choice:
    floor = report["config"]["response_floor"]
    response = {row: value for row in rows if (value := _value(report, row, "response")) is not None}
    untouched = {row: value for row in response if (value := _value(report, row, "untouched")) is not None}
    if not response:
        raise InvalidInput(f"tables.{table}", "no row has a target response; nothing can be chosen")
    able = [row for row in untouched if response[row] >= floor]
    row = max(able, key=untouched.__getitem__) if able else max(response, key=response.__getitem__)
    written = report["config"]["methods"][row]
    return Choice(row, report["rows"][row]["title"], written["guide"] or written["train"] or {}, untouched.get(row),
                  response[row], bool(able), tuple(rows))


def _value(report: Mapping[str, Any], row: str, key: str) -> float | None:
    return report["rows"][row]["columns"].get(key, {}).get("value")


def as_text(report: Mapping[str, Any]) -> str:
    """The choice of every table in words, under the rule."""
    lines = [f"Rule: {RULE.format(floor=report['config']['response_floor'])}."]
    for table, choice in choose(report).items():
        kept = "not measured" if choice.untouched is None else f"{choice.untouched:.1f} %"
        settings = ", ".join(f"{key}={value}" for key, value in choice.settings.items())
        lines.append(f"{table}: {choice.row} of {len(choice.tried)} ({settings}); untouched {kept}, response "
                     f"{choice.response:.1f} %{'' if choice.reaches_floor else ', which no setting of it raised to the floor'}")
    return "\n".join(lines)


def read(folder: Path) -> dict[str, Any]:
    """The result that `evaluate` wrote to this folder. Raises InvalidInput where there is none."""
    path = folder / "table.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InvalidInput("--chosen", f"{path} is not there or damaged; run the evaluation first") from None
