"""What every tab's wiring shares."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from spf.errors import SpfError
from spf.ui import markup, strings

log = logging.getLogger(__name__)

DEVICE_QUEUE = "device"  # events that run the model wait for one another
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def script(name: str) -> str:
    """A component's script, which may call `made`."""
    return "".join(Path(__file__).with_name(part).read_text(encoding="utf-8") for part in ("made.js", name))


def notice(elem_id: str, fields: Mapping[str, str]) -> gr.HTML:
    """Where `markup.problem` and `markup.report` are shown. A refusal appears beside its field, too.

    `fields`: by the schema's name, the id of the component, with "fold/" before it where it stands in one.
    """
    return gr.HTML("", js_on_load=script("notice.js"), elem_id=elem_id, fields=dict(fields))


@contextmanager
def fold(label: str, elem_id: str | None = None, expanded: bool = False) -> Iterator[None]:
    """A part of a form under a button that shows and hides it.

    Not gr.Accordion: that makes its fields when it is first opened, and writes what the page knows into them one frame later,
    over what was typed in between.
    """
    button = f'<button type="button" aria-expanded="{str(expanded).lower()}">{escape(label)}</button>'
    with gr.Column(elem_id=elem_id, elem_classes="spf-fold"):
        gr.HTML(button, js_on_load=script("fold.js"), apply_default_css=False)
        yield


class Group:
    """Components that are read or written together; a subclass is a frozen dataclass that names them."""

    def all(self) -> list[Any]:
        """Every one of them, in the order of the fields."""
        return list(vars(self).values())


def told(act: Callable[[], str]) -> tuple[str, bool]:
    """The notice, and whether it went well. Whatever goes wrong is said."""
    try:
        return markup.report(act()), True
    except SpfError as error:
        return markup.problem(error), False
    except Exception:
        log.exception("an action of the page failed")
        return markup.problem(strings.UNEXPECTED), False
