"""The pictures of one result: side by side, or two over one another by slider, hover and flicker; one zoom for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from spf.ui import overlay, strings
from spf.ui.wiring import script

_PANE = """<section class="spf-pane" data-slot="{slot}" aria-label="{label}">
<header><select aria-label="{label}"></select><a hidden title="{save}" aria-label="{save} {label}">{save}</a></header>
<div class="spf-frame"><span class="spf-empty">{empty}</span><img hidden draggable="false" alt=""></div>
<p class="spf-pane-note spf-quiet"></p></section>"""


@dataclass(frozen=True, eq=False)
class Pane:
    """One picture that can be looked at: its key, its title, itself, and a sentence about it."""

    name: str
    title: str
    picture: Image.Image | Path
    note: str = ""
    passing: bool = False  # seen for a moment only, while the portrait grows

    @cached_property
    def src(self) -> str:
        return address(self.picture, self.passing)


def viewer(elem_id: str) -> gr.HTML:
    """The component. Its value is what `value` makes."""
    modes = "".join(f'<button type="button" data-mode="{name}" title="{escape(hint)}">{escape(label)}</button>'
                    for name, (label, hint) in strings.VIEW_MODES.items())
    panes = "".join(_PANE.format(slot=slot, label=escape(label), save=escape(strings.SAVE), empty=escape(empty))
                    for slot, (label, empty) in strings.VIEW_SLOTS.items())
    zoom = (f'<button type="button" aria-label="{escape(strings.ZOOM_OUT)}">−</button>'
            f'<button type="button" title="{escape(strings.ZOOM_RESET)}"><output>100 %</output></button>'
            f'<button type="button" aria-label="{escape(strings.ZOOM_IN)}">+</button>')
    skeleton = (
        f'<div class="spf-viewer" data-mode="side"><div class="spf-toolbar"><div class="spf-modes" role="group" '
        f'aria-label="{escape(strings.VIEW_MODE)}">{modes}</div><div class="spf-zoom" role="group" '
        f'aria-label="{escape(strings.ZOOM)}">{zoom}</div></div><div class="spf-panes">{panes}</div>'
        f'<input class="spf-split" type="range" min="0" max="100" value="50" aria-label="{escape(strings.SPLIT)}"></div>')
    return gr.HTML(value([]), html_template=skeleton, js_on_load=script("viewer.js"),
                   apply_default_css=False, elem_id=elem_id)


def value(panes: Sequence[Pane]) -> dict[str, list[dict[str, Any]]]:
    return {"panes": [{"name": pane.name, "title": pane.title, "src": pane.src, "note": pane.note}
                      for pane in panes]}


def address(picture: Image.Image | Path, passing: bool = False) -> str:
    """Where the browser finds a picture: a saved one by its file, which carries the settings; others inside the address."""
    if isinstance(picture, Path):
        return f"gradio_api/file={picture}"
    return overlay.data_uri(picture, passing)
