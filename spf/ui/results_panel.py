"""The Results tab: the tables and figures that `evaluate` has written, chosen from a list and never by path."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from spf.config import REPOSITORY, home
from spf.ui import markup, strings
from spf.ui.wiring import QUIET, script

FIGURES_SHOWN, FIGURE_SIDE = 40, 1600
PAIRS_SHOWN = 24


@dataclass(frozen=True)
class Evaluation:
    table: Path  # Markdown
    figures: Path  # folder


def evaluations() -> dict[str, Evaluation]:
    """Every evaluation by the name that the page shows: the published ones, then this user's."""
    published, mine = REPOSITORY / "docs", home() / "evaluation"
    found = {f"{strings.RESULTS_PUBLISHED}: {page.stem}": Evaluation(page, page.with_suffix(""))
             for page in sorted(published.glob("results*.md"))}
    return found | {f"{strings.RESULTS_MINE}: {table.parent.relative_to(mine).as_posix()}": Evaluation(
        table, table.parent / "figures") for table in sorted(mine.glob("**/table.md"))}


def table(name: str | None) -> str:
    """The table of an evaluation as Markdown without its pictures and what is a heading of pictures only.

    Empty for one that is not in the list.
    """
    found = evaluations().get(name or "")
    return re.sub(r"(#+ [^\n]*\n+)?!\[[^\]]*\]\([^)]*\)\n*", "", found.table.read_text(encoding="utf-8")) if found else ""


def _figure_files(name: str | None) -> list[Path]:
    found = evaluations().get(name or "")
    return sorted(found.figures.glob("*.png"))[:FIGURES_SHOWN] if found else []


def figures(name: str | None) -> list[tuple[Image.Image, str]]:
    """(picture, file name) of an evaluation's figures, at most FIGURES_SHOWN, none larger than FIGURE_SIDE."""
    pictures = []
    for path in _figure_files(name):
        with Image.open(path, formats=["PNG"]) as image:
            image.thumbnail((FIGURE_SIDE, FIGURE_SIDE))
            pictures.append((image.convert("RGB"), path.stem))
    return pictures


def behind(line: str, heading: str, names: Sequence[str]) -> int | None:
    """Which figure shows the pictures that a number of the table was measured on; None where there is no figure.

    The sheet of the target that the table's line names, else that of its heading, else the first: all methods side by side.
    """
    for text in (line, heading):
        words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
        for index, name in enumerate(names):
            if words and name.removeprefix("sheet-") in words:
                return index
    sheets = [index for index, name in enumerate(names) if name.startswith("sheet-")]
    return next(iter([*sheets, *range(len(names))]), None)


def pairs_behind(name: str | None, line: str, heading: str) -> tuple[str, list[tuple[Image.Image, str]]]:
    """What a number was measured on: a title, and (original beside customized, what was asked for), evenly from its targets.

    Nothing where the evaluation's pictures are not on this computer, or the line is none of a method or target.
    """
    found = evaluations().get(name or "")
    try:
        index = json.loads((found.table.parent / "pictures.json").read_text(encoding="utf-8")) if found else {}
        table = index["reconstruction" if heading.startswith(strings.RESULTS_BASE) else "rows"]
        row, targets = _measured(table, line, heading)
        pairs = [pair for target in targets
                 for pair in _stored(found.table.parent / "pictures", table[row][target], -(-PAIRS_SHOWN // len(targets)))]
    except (OSError, ValueError, KeyError, TypeError):
        return "", []
    return strings.RESULTS_PAIRS.format(method=row, target=", ".join(targets)), pairs[:PAIRS_SHOWN]


def _measured(table: Mapping[str, Mapping[str, Any]], line: str, heading: str) -> tuple[str, list[str]]:
    """The method and the targets that a line is about. KeyError if it is about none."""
    if line in table:
        return line, list(table[line])
    row = heading.removeprefix(strings.RESULTS_BY_TARGET)
    if line not in table[row]:
        raise KeyError(line)
    return row, [line]


def _stored(folder: Path, pieces: Sequence[Sequence[Any]], most: int) -> list[tuple[Image.Image, str]]:
    """The first pairs of a method and target. KeyError where a picture is gone."""
    from spf.evaluation.store import Store  # with torch, which the page opens without

    found: list[tuple[Image.Image, str]] = []
    for original, customized, texts in pieces:
        if len(found) < most:
            both = [(Store(folder).load(key) or {})["pixels"] for key in (original, customized)]
            found += zip(map(Image.fromarray, np.concatenate(both, axis=2)), texts, strict=True)
    return found[:most]


def add_panel(tab: gr.Tab) -> None:
    """Lay out the tab inside the current gradio context."""
    with gr.Column(elem_classes="spf-stage"):
        choice = gr.Dropdown([], label=strings.RESULTS_CHOICE, filterable=False, elem_id="spf-results-choice")
        words = gr.HTML("", elem_id="spf-results-words")
        text = gr.Markdown("", elem_id="spf-results-table")
        with gr.Column(elem_id="spf-results-pictures", elem_classes="spf-part"):
            title = gr.HTML("", elem_id="spf-results-title")
            pairs, gallery = (gr.Gallery(
                label=label, format=kind, columns=3, object_fit="contain", visible=False, buttons=["download", "fullscreen"],
                elem_id=f"spf-results-{key}") for key, label, kind in (
                    ("pairs", strings.RESULTS_BEHIND, "png"),
                    ("figures", strings.RESULTS_FIGURES, "jpeg")))  # a PNG of a sheet takes 80 times as long to write
        pressed = gr.HTML("", js_on_load=script("results.js"), elem_id="spf-results-pressed",
                          words={"behind": strings.RESULTS_BEHIND, "open": strings.RESULTS_OPEN})

    def show(name: str | None) -> list[Any]:
        return [table(name), gr.update(value=None, visible=False), "", gr.update(value=None, visible=False)]

    def show_figures(name: str | None) -> Any:
        pictures = figures(name)
        return gr.update(value=pictures, visible=bool(pictures))

    def opened(name: str | None) -> list[Any]:
        names = list(evaluations())
        name = name if name in names else next(iter(names), None)
        words = markup.quiet(strings.RESULTS_HINT if names else strings.RESULTS_NONE)
        return [gr.update(choices=names, value=name), words, *show(name)]

    def press(name: str | None, event: gr.EventData) -> list[Any]:
        line, heading = str(event.line), str(event.heading)
        words, found = pairs_behind(name, line, heading)
        if found:
            return [gr.skip(), markup.heading(words, strings.RESULTS_PAIRS_HINT), gr.update(value=found, visible=True)]
        index = behind(line, heading, [path.stem for path in _figure_files(name)])
        words = strings.RESULTS_NO_PICTURES if index is None else strings.RESULTS_FIGURE
        return [gr.skip() if index is None else gr.update(selected_index=index), markup.quiet(words),
                gr.update(value=None, visible=False)]

    shown = [gallery, title, pairs]
    pressed.select(press, [choice], shown, **QUIET)
    # the tables are there to be read while the figures are on their way
    tab.select(opened, [choice], [choice, words, text, *shown], **QUIET).then(show_figures, [choice], [gallery], **QUIET)
    choice.input(show, [choice], [text, *shown], **QUIET).then(show_figures, [choice], [gallery], **QUIET)
