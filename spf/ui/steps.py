"""The timeline as the page shows it: what every step changed, where it stands in the tree, and the chain as one picture."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageDraw, ImageFont

from spf.config import GenerationRequest
from spf.generation.timeline import Step, lanes
from spf.ui import strings, viewer
from spf.ui.wiring import script

STRIP_SIDE, STRIP_MARGIN, STRIP_TEXT = 256, 16, 40  # pixels of the exported chain


def timeline(elem_id: str) -> gr.HTML:
    """The component. Its value is what `value` makes; its events are select, pin, undo, redo and strip."""
    buttons = "".join(f'<button type="button" title="{escape(hint)}">{escape(label)}</button>' for label, hint in (
        (strings.UNDO, strings.UNDO_HINT), (strings.REDO, strings.REDO_HINT), (strings.CHAIN, strings.CHAIN_HINT)))
    skeleton = (
        f'<div class="spf-timeline" hidden data-pin="{escape(strings.PIN)}" data-pinned="{escape(strings.PINNED)}">'
        f'<div class="spf-timeline-bar"><h3 class="spf-heading">{escape(strings.TIMELINE)}<span class="spf-hint">'
        f'{escape(strings.TIMELINE_HINT)}</span></h3>{buttons}</div><div class="spf-tree"></div></div>')
    return gr.HTML(value([], None, None, Path(), False, False), html_template=skeleton,
                   js_on_load=script("timeline.js"), apply_default_css=False, elem_id=elem_id)


def value(steps: list[Step], current: int | None, pinned: int | None, outputs: Path, undo: bool, redo: bool,
          download: str | None = None) -> dict[str, Any]:
    """What the component shows. `download` is the address of a file that the browser saves once."""
    places, requests = lanes(steps), {step.id: step.request for step in steps}
    return {"undo": undo, "redo": redo, "download": download, "steps": [{
        "id": step.id, "number": number, "row": places[step.id][0], "column": places[step.id][1],
        "drop": places[step.id][0] - places.get(step.parent, places[step.id])[0], "first": step.parent is None,
        "current": step.id == current, "pinned": step.id == pinned,
        "src": viewer.address(outputs / step.folder / "customized.png"),
        "label": change(requests.get(step.parent), step.request), "title": summary(step.request),
    } for number, step in enumerate(steps, 1)]}


def number_of(steps: list[Step], step: int) -> int:
    """The number under which the page shows a step."""
    return [one.id for one in steps].index(step) + 1


def summary(request: GenerationRequest) -> str:
    """A request in one line: its targets and its seed."""
    targets = ", ".join(map(_weighted, request.target_texts, request.weights))
    return strings.STEP_SUMMARY.format(targets=targets or strings.NO_TARGET, seed=request.seed)


def change(before: GenerationRequest | None, after: GenerationRequest) -> str:
    """What a step changed, in few words; the summary for a first step, and where the base text is another."""
    if before is None or before.base_text != after.base_text:
        return summary(after)
    was, now = (dict(zip(one.target_texts, one.weights, strict=True)) for one in (before, after))
    words = [f"+ {_weighted(text, now[text])}" for text in now if text not in was]
    words += [f"− {text}" for text in was if text not in now]
    words += [_weighted(text, now[text], always=True) for text in now if text in was and now[text] != was[text]]
    if not words and list(was) != list(now):
        words = [strings.STEP_ORDER.format(targets=", ".join(now))]
    for field, label in strings.STEP_FIELDS.items():
        was, now = (_setting(request, field) for request in (before, after))
        if was != now and not ("." in field and None in (was, now)):  # a part that came or went is said by its first field
            words.append(label.format(now or strings.STEP_NONE))
    return ", ".join(words) or strings.STEP_SAME


def _setting(request: GenerationRequest, field: str) -> Any:
    """A field of a request, or of a part of it that may not be there: 'hold.smoothing'."""
    part, dot, name = field.rpartition(".")
    return getattr(getattr(request, part) if dot else request, name, None)


def _weighted(text: str, weight: float, always: bool = False) -> str:
    return text if weight == 1 and not always else f"{text} ×{weight:g}"


def chain(pictures: list[tuple[Image.Image, str]]) -> Image.Image:
    """Pictures with their captions in one row, on white."""
    side, margin = STRIP_SIDE, STRIP_MARGIN
    sheet = Image.new("RGB", (margin + (side + margin) * len(pictures), side + 2 * margin + STRIP_TEXT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for index, (picture, caption) in enumerate(pictures):
        left = margin + index * (side + margin)
        sheet.paste(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (left, margin))
        draw.text((left, side + margin + 8), _fitted(caption, font, side), fill="#1c1917", font=font)
    return sheet


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """As much of a line as fits, with an ellipsis where it was cut."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
