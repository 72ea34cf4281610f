"""The Blind comparison tab: two contestants, pairs in random order, three questions, win rates."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from spf.errors import Cancelled, SpfError
from spf.study import ANSWERS, QUESTIONS
from spf.ui import catalog, markup, strings
from spf.ui import compare_handlers as handlers
from spf.ui.compare_handlers import Asked, CompareForm
from spf.ui.generate_panel import GeneratePanel
from spf.ui.live import Service
from spf.ui.wiring import DEVICE_QUEUE, QUIET, Group, notice

log = logging.getLogger(__name__)
_PLACES = {"first": "spf-compare-first", "second": "spf-compare-second", "base_text": "spf-compare-base",
           "target_texts": "spf-compare-target", "pairs": "spf-compare-count"}


@dataclass(frozen=True, eq=False)
class View(Group):
    """What shows the pair that is asked about."""

    words: gr.HTML
    box: gr.Column
    pictures: gr.HTML
    consistency: gr.Radio
    responsiveness: gr.Radio
    preference: gr.Radio
    pair: gr.State
    results: gr.HTML
    download: gr.Button

    @staticmethod
    def write(asked: Asked | None) -> list[Any]:
        if asked is None:
            return [markup.quiet(strings.COMPARE_NONE), gr.update(visible=False), *[gr.skip()] * 5, "", gr.update(visible=False)]
        done = asked.pair is None
        pictures = gr.skip() if done else markup.figures(list(zip(strings.COMPARE_PICTURES, asked.pictures, strict=True)))
        return [markup.heading(asked.words), gr.update(visible=not done), pictures, None, None, None, asked.pair,
                handlers.results(asked.session) if done else "", gr.update(visible=done)]


def add_panel(service: Service, portrait: GeneratePanel, tab: gr.Tab) -> None:
    """Lay out the tab inside the current gradio context."""
    with gr.Row(elem_classes="spf-studio"):
        with gr.Column(scale=2, min_width=300, elem_classes="spf-form"):
            form = _form()
        with gr.Column(scale=5, min_width=320, elem_classes="spf-stage"):
            view, following, file = _stage()
    _wire(service, portrait, tab, form, (view, following, file))


def _form() -> tuple[list[Any], gr.Button, gr.Button, gr.HTML, gr.Dropdown]:
    first = gr.Dropdown([], label=strings.COMPARE_FIRST, filterable=False, elem_id="spf-compare-first")
    second = gr.Dropdown([], label=strings.COMPARE_SECOND, filterable=False, elem_id="spf-compare-second")
    base = gr.Textbox(strings.SHARED_BASE_DEFAULT, label=strings.BASE_TEXT, lines=2, elem_id="spf-compare-base")
    target = gr.Textbox("", label=strings.PHRASE, max_lines=1, placeholder=strings.PHRASE_PLACEHOLDER,
                        elem_id="spf-compare-target")
    count = gr.Number(8, label=strings.PAIRS, elem_id="spf-compare-count")
    with gr.Row(elem_classes="spf-actions"):
        begin = gr.Button(strings.COMPARE_BEGIN, variant="primary", scale=3, elem_id="spf-compare-begin")
        cancel = gr.Button(strings.CANCEL, interactive=False, scale=1, min_width=80, elem_id="spf-compare-cancel")
    words = notice("spf-compare-notice", _PLACES)
    session = gr.Dropdown([], label=strings.COMPARE_SESSION, filterable=False, elem_id="spf-compare-session")
    return [first, second, base, target, count], begin, cancel, words, session


def _stage() -> tuple[View, gr.Button, gr.File]:
    words = gr.HTML(markup.quiet(strings.COMPARE_NONE), elem_id="spf-compare-words")
    choices = [(label, key) for key, label in zip(ANSWERS, strings.COMPARE_ANSWERS, strict=True)]
    with gr.Column(visible=False, elem_id="spf-compare-box") as box:
        pictures = gr.HTML("", elem_id="spf-compare-pictures")
        questions = [gr.Radio(choices, label=strings.QUESTIONS[key], elem_id=f"spf-compare-{key}") for key in QUESTIONS]
        following = gr.Button(strings.COMPARE_NEXT, variant="primary", elem_id="spf-compare-next")
    results = gr.HTML("", elem_id="spf-compare-results")
    download = gr.Button(strings.COMPARE_CSV, visible=False, size="sm", elem_id="spf-compare-csv")
    file = gr.File(label=strings.COMPARE_CSV, visible=False, interactive=False, elem_id="spf-compare-file")
    return View(words, box, pictures, *questions, gr.State(None), results, download), following, file


def _wire(service: Service, portrait: GeneratePanel, tab: gr.Tab, form: tuple, stage: tuple) -> None:
    fields, begin, cancel, problem, session = form
    view, following, file = stage

    def opened(model: str, *chosen: str | None) -> list[Any]:
        names = list(catalog.customizations(model))
        contestants = [gr.update(choices=names, value=name if name in names else None) for name in chosen]
        return [*contestants, gr.update(choices=handlers.study().sessions())]

    def show(name: str | None) -> list[Any]:
        try:
            return ["", *View.write(handlers.ask(name))]
        except SpfError as error:
            return [markup.problem(error), *[gr.skip()] * len(view.all())]

    def answer(name: str, pair: int, *answers: str | None) -> list[Any]:
        try:
            return ["", *View.write(handlers.answer(name, pair, list(answers)))]
        except SpfError as error:
            return [markup.problem(error), *[gr.skip()] * len(view.all())]

    outputs = [problem, *view.all()]
    tab.select(opened, [portrait.fields.model, *fields[:2]], [*fields[:2], session], **QUIET)
    _wire_drawing(service, [portrait.fields.model, *fields], (begin, cancel), (problem, session), view)
    session.input(show, [session], outputs, **QUIET)
    following.click(answer, [session, view.pair, view.consistency, view.responsiveness, view.preference], outputs, **QUIET)
    view.download.click(lambda name: gr.update(value=str(handlers.as_csv(name)), visible=True), [session], [file], **QUIET)


def _wire_drawing(service: Service, fields: list[Any], buttons: tuple[gr.Button, gr.Button], told: tuple[gr.HTML, gr.Dropdown],
                  view: View) -> None:
    """The pairs are drawn, then the first one is asked about; meanwhile they can be cancelled, and not be begun again."""
    (begin, cancel), (problem, session), drawing = buttons, told, gr.State(handlers.Drawing())

    def screen(words: str, busy: bool, asked: str | None = None) -> list[Any]:
        shown = [gr.skip()] * (1 + len(view.all())) if asked is None else [
            gr.update(choices=handlers.study().sessions(), value=asked), *View.write(handlers.ask(asked))]
        return [gr.update(interactive=not busy), gr.update(interactive=busy), words, *shown]

    def prepare(drawing: handlers.Drawing, model: str, *values: Any) -> Iterator[list[Any]]:
        name, drawing.stop = None, threading.Event()
        yield screen(markup.quiet(strings.STATUS_WAITING), busy=True)
        try:
            for share, name in handlers.prepare(service, CompareForm(*values, model), drawing.stop):
                if share < 1:
                    yield screen(markup.progress(share, strings.COMPARE_DRAWING, name), busy=True)
        except Cancelled:
            yield screen(markup.report(strings.CANCELLED), busy=False)
        except SpfError as error:
            yield screen(markup.problem(error), busy=False)
        except Exception:
            log.exception("pairs could not be drawn")
            yield screen(markup.problem(strings.UNEXPECTED), busy=False)
        else:
            yield screen("", busy=False, asked=name)

    begin.click(None, None, [problem], js=f"() => {json.dumps(markup.quiet(strings.STATUS_QUEUED))}", **QUIET)
    begin.click(prepare, [drawing, *fields], [begin, cancel, problem, session, *view.all()], concurrency_limit=1,
                concurrency_id=DEVICE_QUEUE, show_progress="hidden", api_visibility="private")
    cancel.click(lambda drawing: drawing.stop.set(), [drawing], None, **QUIET)
