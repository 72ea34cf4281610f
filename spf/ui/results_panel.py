"""The Results tab: the tables and figures that `evaluate` has written, chosen from a list and never by path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from spf.config import REPOSITORY, home
from spf.ui import markup, strings
from spf.ui.wiring import QUIET, script

FIGURES_SHOWN, FIGURE_SIDE = 40, 1600


@dataclass(frozen=True)
class Evaluation:
    table: Path  # Markdown
    figures: Path  # folder


def evaluations() -> dict[str, Evaluation]:
    """Every evaluation by the name that the page shows: the published ones, then this user's."""
    published, mine = REPOSITORY / "docs" / "results", home() / "evaluation"
    found = {f"{strings.RESULTS_PUBLISHED}: {page.stem}": Evaluation(page, page.with_suffix(""))
             for page in sorted(published.glob("*.md"))}
    return found | {f"{strings.RESULTS_MINE}: {table.parent.relative_to(mine).as_posix()}": Evaluation(
        table, table.parent / "figures") for table in sorted(mine.glob("**/table.md"))}


def table(name: str | None) -> str:
    """The table of an evaluation as Markdown without its pictures; empty for one that is not in the list."""
    found = evaluations().get(name or "")
    return re.sub(r"!\[[^\]]*\]\([^)]*\)", "", found.table.read_text(encoding="utf-8")) if found else ""


def figures(name: str | None) -> list[tuple[Image.Image, str]]:
    """(picture, file name) of an evaluation's figures, at most FIGURES_SHOWN, none larger than FIGURE_SIDE."""
    found, pictures = evaluations().get(name or ""), []
    for path in sorted(found.figures.glob("*.png"))[:FIGURES_SHOWN] if found else []:
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


def add_panel(tab: gr.Tab) -> None:
    """Lay out the tab inside the current gradio context."""
    with gr.Column(elem_classes="spf-stage"):
        choice = gr.Dropdown([], label=strings.RESULTS_CHOICE, filterable=False, elem_id="spf-results-choice")
        words = gr.HTML("", elem_id="spf-results-words")
        text = gr.Markdown("", elem_id="spf-results-table")
        pressed = gr.HTML("", js_on_load=script("results.js"), elem_id="spf-results-pressed")
        gallery = gr.Gallery(label=strings.RESULTS_FIGURES, format="png", columns=3, object_fit="contain", visible=False,
                             buttons=["download", "fullscreen"], elem_id="spf-results-figures")

    def show(name: str | None) -> list[Any]:
        pictures = figures(name)
        return [table(name), gr.update(value=pictures, visible=bool(pictures))]

    def opened(name: str | None) -> list[Any]:
        names = list(evaluations())
        name = name if name in names else next(iter(names), None)
        words = markup.quiet(strings.RESULTS_HINT if names else strings.RESULTS_NONE)
        return [gr.update(choices=names, value=name), words, *show(name)]

    def press(name: str | None, event: gr.EventData) -> Any:
        index = behind(str(event.line), str(event.heading), [title for _, title in figures(name)])
        return gr.skip() if index is None else gr.update(selected_index=index)

    pressed.select(press, [choice], [gallery], **QUIET)
    tab.select(opened, [choice], [choice, words, text, gallery], **QUIET)
    choice.input(show, [choice], [text, gallery], **QUIET)
