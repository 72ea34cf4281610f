"""The Teach tab: choose pictures, phrase and budget on the left; watch the run on the right."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from spf.errors import SpfError
from spf.ui import catalog, chips, dataset_handlers, generate_handlers, markup, strings
from spf.ui import teach_handlers as handlers
from spf.ui.generate_panel import GeneratePanel
from spf.ui.teach_handlers import FOLDER, RENDERED, UPLOADED, RunView, TeachForm, Watched
from spf.ui.wiring import DEVICE_QUEUE, QUIET, Group, fold, notice, told

log = logging.getLogger(__name__)
_PLACES = {
    "--attribute": "spf-attribute", "--count": "spf-count", "count": "spf-count", "pictures": "spf-uploads",
    "phrase": "spf-phrase", "shared_base": "spf-shared-base", "data": "spf-folder", "name": "spf-name",
    "recipe": "spf-method", "method": "spf-method",
    "preset": "spf-budget"}


@dataclass(frozen=True, eq=False)
class Fields(Group):
    """The form's components, in the order of `handlers.TeachForm`."""

    source: gr.Radio
    attribute: gr.Dropdown
    count: gr.Number
    uploads: gr.File
    phrase: gr.Textbox
    shared_base: gr.Textbox
    table: gr.Dataframe
    folder: gr.Dropdown
    name: gr.Textbox
    budget: gr.Radio
    method: gr.Dropdown

    @staticmethod
    def read(values: tuple[Any, ...], model: str) -> TeachForm:
        """The form out of the values of `all()`."""
        source, attribute, count, uploads, phrase, shared_base, table, folder, name, budget, method = values
        rows = tuple((str(row[0]), str(row[1] or "")) for row in table or [])
        return TeachForm(source, attribute, count, tuple(uploads or ()), phrase or "", shared_base or "", rows,
                         name or "", budget, model, folder, method)


@dataclass(frozen=True, eq=False)
class View(Group):
    """The components that show a run."""

    nothing: gr.HTML
    box: gr.Column
    progress: gr.HTML
    requests: gr.Row
    resume: gr.Button
    curve_title: gr.HTML
    curve: gr.LinePlot
    losses: gr.HTML
    sample_words: gr.HTML
    samples: gr.Row
    original: gr.Image
    customized: gr.Image
    sfcm: gr.Image
    sample_at: gr.Slider
    stages: gr.HTML
    log: gr.Code
    timer: gr.Timer
    start: gr.Button

    @staticmethod
    def write(view: RunView) -> list[Any]:
        """Updates for `all()`; a sample that is on the page already is skipped."""
        sampled = view.sample_step >= 0
        words = strings.SAMPLE.format(step=view.sample_step) if sampled else strings.SAMPLE_NONE
        return [
            gr.update(visible=False), gr.update(visible=True),
            markup.progress(view.share, view.headline, view.detail), gr.update(visible=not view.finished),
            gr.update(visible=view.resumable), gr.update(visible=bool(view.losses)),
            gr.update(value=view.curve, visible=bool(view.losses)), markup.quiet(view.losses),
            gr.skip() if sampled and view.sample is None else markup.quiet("" if view.failed and not sampled else words),
            gr.update(visible=sampled), *(view.sample or [gr.skip()] * 3), View._history(view), View._stages(view),
            gr.update(value=view.log, visible=bool(view.log)), gr.Timer(active=not view.finished),
            gr.update(interactive=view.finished)]

    @staticmethod
    def _history(view: RunView) -> Any:
        """The choice of a sample; it follows the newest one unless an earlier one is looked at."""
        value = {"value": view.samples} if view.sample else {}
        return gr.update(maximum=max(view.samples, 2), visible=view.samples > 1, **value)

    @staticmethod
    def _stages(view: RunView) -> Any:
        """Kept as it is until there is something newer, and emptied where a run begins."""
        if view.stages:
            return markup.heading(strings.STAGES, strings.STAGES_HINT) + markup.figures(view.stages)
        return gr.skip() if view.samples > 1 else ""


@dataclass(frozen=True, eq=False)
class TeachPanel:
    """What the rest of the page needs to know of this tab."""

    watched: gr.State
    fields: Fields
    view: View


def add_panel(portrait: GeneratePanel) -> TeachPanel:
    """Lay out the tab inside the current gradio context; a taught customization is handed to the Portrait tab."""
    with gr.Row(elem_classes="spf-studio"):
        with gr.Column(scale=2, min_width=300, elem_classes="spf-form"):
            fields = _form()
            start = gr.Button(strings.START, variant="primary", elem_id="spf-teach-start")
            plan = gr.Button(strings.PLAN, size="sm", elem_id="spf-teach-plan")
            words = notice("spf-teach-notice", _PLACES)
        with gr.Column(scale=5, min_width=320, elem_classes="spf-stage"):
            view, buttons = _stage(start)
    panel = TeachPanel(gr.State(Watched()), fields, view)
    _wire_form(fields, words)
    _wire_start(panel, words, portrait)
    _wire_plan(panel, plan, words, portrait)
    _wire_run(panel, portrait)
    _wire_requests(panel, buttons, words)
    return panel


def _form() -> Fields:
    sources = [(strings.SOURCE_RENDERED, RENDERED), (strings.SOURCE_UPLOAD, UPLOADED),
               (strings.SOURCE_FOLDER, FOLDER)]
    source = gr.Radio(sources, value=RENDERED, label=strings.SOURCE, elem_id="spf-source")
    with gr.Column(elem_classes="spf-part") as rendered:
        attribute, count = _rendered_fields()
    with gr.Column(visible=False, elem_classes="spf-part") as uploaded:
        uploads, phrase, shared_base, table = _upload_fields()
    with gr.Column(visible=False, elem_classes="spf-part") as listed:
        folder = _folder_fields()
    name = gr.Textbox("", label=strings.NAME, info=strings.NAME_HINT, max_lines=1, elem_id="spf-name")
    method = gr.Dropdown(catalog.methods(), value="spf", label=strings.METHOD, filterable=False, elem_id="spf-method")
    budgets = catalog.budgets()
    budget = gr.Radio(budgets, value=budgets[0][1] if budgets else None, label=strings.BUDGET, elem_id="spf-budget")

    def switch(chosen: str) -> list[Any]:
        shown = [gr.update(visible=chosen == part) for part in (RENDERED, UPLOADED, FOLDER)]
        return [*shown, gr.update(choices=list(dataset_handlers.folders()))]

    source.change(switch, [source], [rendered, uploaded, listed, folder], **QUIET)
    return Fields(source, attribute, count, uploads, phrase, shared_base, table, folder, name, budget, method)


def _folder_fields() -> gr.Dropdown:
    """A set that is here already: its report, and its captions to be changed."""
    folder = gr.Dropdown([], label=strings.FOLDER, info=strings.FOLDER_HINT, filterable=False, elem_id="spf-folder")
    report = gr.HTML("", elem_id="spf-folder-report")
    with fold(strings.CAPTIONS):
        captions = gr.Dataframe(
            headers=strings.CAPTION_HEADERS, column_count=3, type="array", interactive=True, wrap=True, static_columns=[0],
            show_label=False, label=strings.CAPTIONS, buttons=[], max_height=320, elem_id="spf-captions")
        save = gr.Button(strings.SAVE_CAPTIONS, size="sm", elem_id="spf-captions-save")

    def look(name: str | None) -> list[Any]:
        words, done = told(lambda: dataset_handlers.report(name))
        return [words, dataset_handlers.captions(name) if done else []]

    folder.input(look, [folder], [report, captions], **QUIET)
    def keep(name: str | None, rows: list[list[str]]) -> str:
        return told(lambda: dataset_handlers.save_captions(name, rows))[0]

    save.click(keep, [folder, captions], [report], **QUIET)
    return folder


def _rendered_fields() -> tuple[gr.Dropdown, gr.Number]:
    sets = catalog.example_sets()
    attribute = gr.Dropdown(
        sets, value=sets[0][1], label=strings.ATTRIBUTE, info=strings.ATTRIBUTE_HINT, filterable=False,
        elem_id="spf-attribute")
    return attribute, gr.Number(64, label=strings.COUNT, elem_id="spf-count")


def _upload_fields() -> tuple[gr.File, gr.Textbox, gr.Textbox, gr.Dataframe]:
    uploads = gr.File(
        label=strings.UPLOAD, file_count="multiple", type="filepath", height=150, elem_id="spf-uploads")
    phrase = gr.Textbox(
        label=strings.PHRASE, info=strings.PHRASE_HINT, placeholder=strings.PHRASE_PLACEHOLDER, max_lines=1,
        elem_id="spf-phrase")
    shared_base = gr.Textbox(
        strings.SHARED_BASE_DEFAULT, label=strings.SHARED_BASE, info=strings.SHARED_BASE_HINT, lines=2,
        elem_id="spf-shared-base")
    with fold(strings.TABLE):
        gr.HTML(markup.quiet(strings.TABLE_HINT))
        table = gr.Dataframe(
            headers=strings.TABLE_HEADERS, column_count=2, type="array", interactive=True, wrap=True,
            static_columns=[0], show_label=False, label=strings.TABLE, buttons=[], elem_id="spf-table")
    return uploads, phrase, shared_base, table


def _stage(start: gr.Button) -> tuple[View, dict[str, gr.Button]]:
    nothing = gr.HTML(markup.steps(strings.TEACH_STEPS), elem_id="spf-no-run")
    with gr.Column(visible=False, elem_classes="spf-stage") as box:
        progress = gr.HTML("", elem_id="spf-run")
        with gr.Row(elem_classes="spf-run") as requests:
            buttons = {what: gr.Button(label, size="sm", scale=0, min_width=110, elem_id=f"spf-run-{what}")
                       for what, label in strings.REQUESTS.items()}
        resume = gr.Button(strings.RESUME, visible=False, elem_id="spf-run-resume")
        title = gr.HTML(markup.heading(strings.CURVE), visible=False, elem_id="spf-curve-title")
        curve = gr.LinePlot(
            handlers.curve([]), x=strings.CURVE_STEP, y=strings.CURVE_VALUE, color=strings.CURVE_TERM,
            show_label=False, label=strings.CURVE, height=300, visible=False, buttons=[], elem_id="spf-curve")
        losses = gr.HTML("", elem_id="spf-losses")
        words = gr.HTML("", elem_id="spf-sample-words")
        with gr.Row(visible=False, elem_classes="spf-samples") as samples:
            pictures = _samples()
        history = gr.Slider(1, 2, value=1, step=1, label=strings.SAMPLE_OF, visible=False, buttons=[], elem_id="spf-sample-at")
        stages = gr.HTML("", elem_id="spf-stages")
        tail = gr.Code(
            "", label=strings.LOG, language=None, interactive=False, visible=False, max_lines=20, elem_id="spf-log")
    timer = gr.Timer(1.0, active=False)
    return View(nothing, box, progress, requests, resume, title, curve, losses, words, samples, *pictures, history, stages,
                tail, timer, start), buttons


def _samples() -> list[gr.Image]:
    names = (("original", strings.ORIGINAL), ("customized", strings.CUSTOMIZED), ("sfcm", strings.OVERLAY))
    return [gr.Image(format="png", type="pil", interactive=False, show_label=False, label=title, alt_text=title,
                     buttons=["fullscreen"], min_width=100, elem_id=f"spf-sample-{name}") for name, title in names]


def _wire_form(fields: Fields, words: gr.HTML) -> None:
    """The name follows what is taught: it is suggested anew where that changes. A refusal of other pictures goes away."""
    inputs = [fields.source, fields.attribute, fields.phrase]
    for listen in (fields.source.input, fields.attribute.input, fields.phrase.blur):
        listen(handlers.suggested_name, inputs, [fields.name], **QUIET)
    fields.source.input(lambda: "", None, [words], **QUIET)
    fields.uploads.change(handlers.upload_table, [fields.uploads], [fields.table], **QUIET)


def _wire_start(panel: TeachPanel, words: gr.HTML, portrait: GeneratePanel) -> None:
    def start(watched: Watched, model: str, *values: Any) -> Iterator[list[Any]]:
        yield [markup.report(strings.STARTING), gr.skip(), gr.update(interactive=False)]
        try:
            run, report = handlers.start(Fields.read(values, model))
        except SpfError as error:
            yield [markup.problem(error), gr.skip(), gr.update(interactive=True)]
        except Exception:
            log.exception("a run could not be started")
            yield [markup.problem(strings.UNEXPECTED), gr.skip(), gr.update(interactive=True)]
        else:
            watched.follow(run.id, announced=False)
            yield [markup.report(report), gr.Timer(active=True), gr.skip()]

    view = panel.view
    view.start.click(
        start, [panel.watched, portrait.fields.model, *panel.fields.all()], [words, view.timer, view.start],
        concurrency_limit=1, show_progress="hidden", api_visibility="private")


def _wire_plan(panel: TeachPanel, button: gr.Button, words: gr.HTML, portrait: GeneratePanel) -> None:
    def plan(model: str, *values: Any) -> Iterator[str]:
        yield markup.report(strings.PLANNING)
        yield told(lambda: handlers.plan(Fields.read(values, model)))[0]

    button.click(plan, [portrait.fields.model, *panel.fields.all()], [words], concurrency_limit=1,
                 concurrency_id=DEVICE_QUEUE, show_progress="hidden", api_visibility="private")


def _wire_run(panel: TeachPanel, portrait: GeneratePanel) -> None:
    view, fields = panel.view, portrait.fields
    outputs = [*view.all(), fields.customization, fields.targets, panel.fields.name]

    def poll(watched: Watched, model: str, payload: Any, name: str) -> list[Any]:
        found = _followed(watched)
        if found is None:
            return [gr.skip()] * len(outputs)
        return [*View.write(found), *_handed(found, model, payload, name)]

    def sample(watched: Watched, number: float) -> list[Any]:
        found = handlers.sample(watched, int(number))
        return [gr.skip()] * 4 if found is None else [markup.quiet(found[0]), *found[1]]

    view.sample_at.input(sample, [panel.watched, view.sample_at],
                         [view.sample_words, view.original, view.customized, view.sfcm], trigger_mode="always_last", **QUIET)
    view.timer.tick(
        poll, [panel.watched, fields.model, fields.targets, panel.fields.name], outputs, show_progress="hidden",
        api_visibility="private", trigger_mode="once", concurrency_limit=4)


def _wire_requests(panel: TeachPanel, buttons: dict[str, gr.Button], words: gr.HTML) -> None:
    """Cancel, pause, save and sample are asked for; resume starts the process anew and goes on watching."""
    def asking(what: str) -> Callable[[Watched], str]:
        return lambda watched: told(lambda: handlers.ask(watched, what))[0]

    def resume(watched: Watched) -> list[Any]:
        words, done = told(lambda: handlers.resume(watched))
        if not done:
            return [words, gr.skip(), gr.skip()]
        return [words, gr.Timer(active=True), gr.update(interactive=False)]

    for what, button in buttons.items():
        button.click(asking(what), [panel.watched], [words], **QUIET)
    view = panel.view
    view.resume.click(resume, [panel.watched], [words, view.timer, view.start], **QUIET)


def _followed(watched: Watched) -> RunView | None:
    """`handlers.follow`; a run that cannot be read any more is let go instead of failing every second."""
    try:
        return handlers.follow(watched)
    except Exception:
        log.exception("run %s cannot be followed", watched.run_id)
        watched.follow(None, announced=True)
        return RunView(strings.NO_RUN, strings.UNEXPECTED, 0.0, True, True, handlers.curve([]), "", None, -1, "")


def _handed(view: RunView, model: str, payload: Any, name: str) -> list[Any]:
    """What a new customization changes: it is chosen on the Portrait tab, and its name is no longer free."""
    if view.taught is None:
        return [gr.skip()] * 3
    targets = generate_handlers.targets_for(view.taught, chips.chips_of(payload))
    return [gr.update(choices=catalog.customization_choices(model), value=view.taught),
            chips.value(targets, catalog.phrases(view.taught)), catalog.free_name(name) if name else gr.skip()]


def opened(panel: TeachPanel, demo: gr.Blocks) -> None:
    """When the page opens: go on watching the run under way or show the last one, and suggest a name."""
    view, fields = panel.view, panel.fields

    def attach(watched: Watched, source: str, attribute: str, phrase: str) -> list[Any]:
        handlers.attach(watched)
        found = _followed(watched)
        shown = [gr.skip()] * len(view.all()) if found is None else View.write(found)
        return [*shown, handlers.suggested_name(source, attribute, phrase)]

    demo.load(attach, [panel.watched, fields.source, fields.attribute, fields.phrase],
              [*view.all(), fields.name], **QUIET)
