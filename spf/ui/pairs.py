"""Several seeds drawn at once: a grid of pairs, original beside customized, of which one can be gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from spf.generation.timeline import SeedPair
from spf.ui import strings, viewer
from spf.ui.wiring import script


def pairs(elem_id: str) -> gr.HTML:
    """The component. Its value is what `value` makes; its event is select, with the pair's folder."""
    skeleton = (f'<div class="spf-together" hidden><h3 class="spf-heading">{escape(strings.TOGETHER)}<span class="spf-hint">'
                f'{escape(strings.TOGETHER_HINT)}</span></h3><div class="spf-pair-grid"></div></div>')
    return gr.HTML(value([], None, Path()), html_template=skeleton, js_on_load=script("pairs.js"), apply_default_css=False,
                   elem_id=elem_id)


def value(found: Sequence[SeedPair], current: Path | None, outputs: Path) -> dict[str, Any]:
    """What the component shows; `current` is the folder of the result on show."""
    return {"pairs": [{
        "folder": str(pair.folder), "name": strings.TOGETHER_PAIR.format(seed=pair.seed),
        "label": strings.SEED_USED.format(seed=pair.seed), "current": outputs / pair.folder == current,
        "pictures": [viewer.address(outputs / pair.folder / f"{name}.png") for name in ("original", "customized")],
    } for pair in found]}
