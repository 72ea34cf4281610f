"""Target phrases as chips: type and Enter adds, a click rewrites in place, the cross removes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from spf.ui import strings

_SCRIPT = Path(__file__).with_name("chips.js")
_SKELETON = """<div class="spf-chips" data-edit="{edit}" data-remove="{remove}" role="group" aria-label="{label}">
<span class="spf-label">{label}</span><span class="spf-hint">{hint}</span>
<div class="spf-chip-row"><span class="spf-chip-list"></span>
<input class="spf-chip-add" placeholder="{add}" aria-label="{add}"></div>
<div class="spf-chip-known" hidden>{known} <span></span></div></div>"""


def chips(elem_id: str) -> gr.HTML:
    """The component. Its value is what `value` makes; `targets_of` reads it back."""
    # The skeleton holds no value: gradio would run what stands between ${ and } in one.
    skeleton = _SKELETON.format(
        label=escape(strings.TARGETS), hint=escape(strings.TARGETS_HINT), add=escape(strings.TARGETS_ADD),
        edit=escape(strings.TARGETS_EDIT), remove=escape(strings.TARGETS_REMOVE), known=escape(strings.TARGETS_KNOWN))
    return gr.HTML(value([], []), html_template=skeleton, js_on_load=_SCRIPT.read_text(encoding="utf-8"),
                   apply_default_css=False, elem_id=elem_id)


def value(targets: Sequence[str], known: Sequence[str]) -> dict[str, list[str]]:
    """The component's value: the phrases it shows, and those it suggests."""
    return {"targets": list(targets), "known": list(known)}


def targets_of(payload: Any) -> tuple[Any, ...]:
    """The phrases in what the browser sent; empty where that has another shape. Phrases are checked with the form."""
    targets = payload.get("targets") if isinstance(payload, dict) else None
    return tuple(targets) if isinstance(targets, list) else ()
