"""Target phrases: type and Enter adds; each one can be rewritten, weighted, moved, switched off and removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import gradio as gr

from spf.ui import strings
from spf.ui.wiring import script

_SKELETON = """<div class="spf-chips" {words} role="group" aria-label="{label}">
<span class="spf-label">{label}</span><span class="spf-hint">{hint}</span>
<div class="spf-chip-list"></div>
<input class="spf-chip-add" placeholder="{add}" aria-label="{add}">
<div class="spf-chip-known" hidden>{known} <span></span></div></div>"""


@dataclass(frozen=True)
class Chip:
    """One target phrase of the form. `weight` is what the browser sent; the request checks it."""

    text: Any
    weight: Any = 1.0
    on: bool = True


def chips(elem_id: str) -> gr.HTML:
    """The component. Its value is what `value` makes; `chips_of` reads it back; every edit is an `input` event."""
    words = {"edit": strings.TARGETS_EDIT, "remove": strings.TARGETS_REMOVE, "weight": strings.TARGETS_WEIGHT,
             "on": strings.TARGETS_ON, "up": strings.TARGETS_UP, "down": strings.TARGETS_DOWN}
    # The skeleton holds no value: gradio would run what stands between ${ and } in one.
    skeleton = _SKELETON.format(
        words=" ".join(f'data-{name}="{escape(text)}"' for name, text in words.items()), label=escape(strings.TARGETS),
        hint=escape(strings.TARGETS_HINT), add=escape(strings.TARGETS_ADD), known=escape(strings.TARGETS_KNOWN))
    return gr.HTML(value([], []), html_template=skeleton, js_on_load=script("chips.js"),
                   apply_default_css=False, elem_id=elem_id)


def value(targets: Sequence[Chip], known: Sequence[str]) -> dict[str, list]:
    """The component's value: the phrases it shows, and those it suggests."""
    return {"targets": [asdict(chip) for chip in targets], "known": list(known)}


def chips_of(payload: Any) -> tuple[Chip, ...]:
    """The phrases in what the browser sent; empty where that has another shape. Phrases are checked with the form."""
    targets = payload.get("targets") if isinstance(payload, dict) else None
    rows = targets if isinstance(targets, list) else []
    return tuple(Chip(row.get("text"), row.get("weight", 1.0), bool(row.get("on", True)))
                 for row in rows if isinstance(row, dict))
