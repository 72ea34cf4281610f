"""Markdown of a report: one table per table of the paper, and under each what was not measured and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from spf.evaluation.report import GROUP_OF, PAPER_COLUMNS, WORLD_COLUMNS

_ARROWS = {"up": "↑", "down": "↓"}
RECONSTRUCTION_COLUMNS = ("lpips", "id", "clip_i", "seg_cons", "untouched", "pixels_outside")
BY_TARGET_COLUMNS = ("lpips", "id", "clip_i", "seg_cons", "untouched", "response", "clip_t")

Values = Mapping[str, Any]


def table(report: Values, rows: Sequence[str], columns: Sequence[str] = PAPER_COLUMNS) -> str:
    """One line per row, the best of each column in bold among rows with enough target response."""
    return _table(report, {report["rows"][row]["title"]: report["rows"][row]["columns"] for row in rows}, columns,
                  report["ranking"]["floor"])


def _table(report: Values, rows: Mapping[str, Values], columns: Sequence[str], floor: float | None, first: str = "Method") -> str:
    about = {metric["key"]: metric for metric in report["metrics"]}
    titles = [f"{about[key]['title']} {_ARROWS[about[key]['better']]}" if key in about else f"{key} (not available)"
              for key in columns]
    best = {key: _best(rows, key, about[key]["better"], floor) for key in columns if key in about}
    lines = [f"| {first} | " + " | ".join(titles) + " |", "|---" * (len(columns) + 1) + "|"]
    for title, values in rows.items():
        shown = [_cell(values.get(key), title == best.get(key)) for key in columns]
        lines.append(f"| {title} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _best(rows: Mapping[str, Values], key: str, better: str, floor: float | None) -> str | None:
    able = {title: values[key]["value"] for title, values in rows.items()
            if values.get(key, {}).get("value") is not None
            and (floor is None or (values["response"]["value"] or 0) >= floor)}
    return (min if better == "down" else max)(able, key=able.__getitem__) if len(able) > 1 else None


def _cell(summary: Values | None, best: bool) -> str:
    if summary is None:
        return "n/a"
    if summary["value"] is None:
        return f"n/a ({summary['note']})"
    value = f"**{number(summary['value'])}**" if best else number(summary["value"])
    interval = "" if summary["low"] is None else f" ({number(summary['low'])} to {number(summary['high'])})"
    return value + interval + (f" [{summary['pairs']:,} pairs]" if summary["excluded"] else "")


def number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def notes(report: Values, rows: Sequence[str], columns: Sequence[str]) -> list[str]:
    """What a table leaves out: columns that are not available, and pairs that could not be measured, by reason."""
    about = {metric["key"]: metric for metric in report["metrics"]}
    found = [f"- Not available: {reason}" for group, reason in report["unavailable"].items()
             if any(GROUP_OF.get(key) == group for key in columns)]
    for key in (key for key in columns if key in about):
        for row in rows:
            excluded = report["rows"][row]["columns"][key]["excluded"]
            found += [f"- {about[key]['title']}, {report['rows'][row]['title']}: {count:,} pairs not measured, {reason}."
                      for reason, count in excluded.items()]
    return found


def extractors(report: Values) -> str:
    """Which networks stand behind the columns."""
    by_name: dict[str, list[str]] = {}
    for metric in report["metrics"]:
        if not metric["key"].startswith("kept_"):
            by_name.setdefault(metric["extractor"], []).append(metric["title"])
    return "\n".join(f"- {name}: {', '.join(titles)}" for name, titles in by_name.items())


def ranking(report: Values) -> str:
    """Who is first in preservation, in words."""
    found, rows = report["ranking"], report["rows"]
    about = {metric["key"]: metric["title"] for metric in report["metrics"]}
    if not found["ranked"]:
        return f"No row reaches a target response of {found['floor']:g} %, so none is ranked."
    lines = [f"Ranked are rows with a target response of at least {found['floor']:g} %: "
             + ", ".join(rows[row]["title"] for row in found["ranked"]) + "."]
    if found["left_out"]:
        lines.append("Below it, and not ranked: " + ", ".join(rows[row]["title"] for row in found["left_out"]) + ".")
    for key, order in found["columns"].items():
        second = "" if order["second"] is None else f", before {rows[order['second']]['title']}"
        clear = {None: " (the only one)", True: " (intervals apart)", False: " (intervals overlap)"}[order["clear"]]
        lines.append(f"- {about[key]}: {rows[order['first']]['title']}{second}{clear}")
    wins = Counter(order["first"] for order in found["columns"].values())
    lines.append("First places: " + ", ".join(f"{rows[row]['title']} {count}" for row, count in wins.most_common()) + ".")
    return "\n".join(lines)


def by_target(report: Values, row: str) -> str:
    return _table(report, report["rows"][row]["targets"], BY_TARGET_COLUMNS, None, "Target")


def kept(report: Values, rows: Sequence[str]) -> str:
    """Per attribute, how often it is still the same where the target does not concern it."""
    columns = [metric["key"] for metric in report["metrics"] if metric["key"].startswith("kept_")]
    about = {metric["key"]: metric["title"] for metric in report["metrics"]}
    lines = ["| Method | " + " | ".join(about[key].removesuffix(" kept, %") for key in columns) + " |",
             "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        values = [report["rows"][row]["columns"][key]["value"] for key in columns]
        lines.append(f"| {report['rows'][row]['title']} | " + " | ".join(
            "n/a" if value is None else f"{value:.1f}" for value in values) + " |")
    return "\n".join(lines)


def reconstruction(report: Values) -> str:
    rows = {report["rows"][row]["title"]: columns for row, columns in report["reconstruction"].items()}
    return _table(report, rows, RECONSTRUCTION_COLUMNS, None)


def page(report: Values, figures: Mapping[str, str]) -> str:
    """The whole report. `figures`: title -> path as the page links to it."""
    config, made = report["config"], report["made_with"]
    rows = list(report["rows"])
    taught = f"{config['pictures']} training pictures per target, training seed {config['seed']}"
    trains = any(method["train"] is not None for method in config["methods"].values())
    parts = [f"# Evaluation '{report['name']}'", (
        f"Model `{report['model']}` ({made['model_sha256'][:12]}), {len(report['targets'])} targets, "
        f"{report['triples_per_target']:,} triples each, "
        f"split '{report['split']}', {taught if trains else 'nothing trained'}. "
        f"Written by `python -m spf evaluate`, spf {made['spf']}, commit {made['commit']}, torch {made['torch']}, "
        f"{made['device']}; {report['minutes']['training']:g} minutes of training, {report['minutes']['drawing']:g} of drawing. "
        "In parentheses: 95 % bootstrap intervals over pairs. Bold: best of the rows with a target response of at least "
        f"{report['ranking']['floor']:g} %.")]
    for key, wanted in config["tables"].items():
        parts += [f"## Table {key}: {wanted['title']}", table(report, wanted["rows"]),
                  table(report, wanted["rows"], WORLD_COLUMNS), *notes(report, wanted["rows"], (*PAPER_COLUMNS, *WORLD_COLUMNS))]
    parts += ["## Who preserves best", ranking(report)]
    parts += ["## Which attributes stay, %", kept(report, rows)]
    parts += [part for row in config["by_target"] for part in (
        f"## By target: {report['rows'][row]['title']}", by_target(report, row))]
    if report["reconstruction"]:
        parts += ["## Base text alone, after customization (Fig. 13)", reconstruction(report)]
    if report.get("continuous"):
        parts += ["## Continuous customization (Fig. 7a)", _table(
            report, report["continuous"], ("lpips", "id", "seg_cons", "untouched", "pixels_outside"), None, "Asked for")]
    parts += ["## What stands behind the columns", extractors(report), _READING]
    parts += [part for title, path in figures.items() for part in (f"## {title}", f"![{title}]({path})")]
    return "\n\n".join(parts) + "\n"


_READING = (
    "Where the embedded networks stand behind a column, its numbers cannot be compared with the paper's: the recogniser's "
    "features take the place of Inception, AlexNet and the face network, and the embedded CLIP that of CLIP ViT-L/14. "
    "HPSv2 and MPS with the embedded CLIP are the same arithmetic, cosine with the whole prompt, without any knowledge of "
    "what people prefer.")
