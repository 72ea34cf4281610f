"""The Portrait tab: form on the left, pictures in the centre, the timeline of steps below."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import gradio as gr

from spf.config import HoldConfig, ModelPreset, model_preset
from spf.ui import catalog, chips, maps, markup, pairs, presets, steps, strings, timeline_handlers, viewer
from spf.ui import generate_handlers as handlers
from spf.ui.generate_handlers import Form
from spf.ui.live import Service
from spf.ui.session import Look, Session
from spf.ui.show import Screen
from spf.ui.wiring import DEVICE_QUEUE, QUIET, Group, fold, notice, told

_PLACES = {
    "model": "spf-model", "customization": "spf-customization", "base_text": "spf-base-text", "target_texts": "spf-targets",
    "target_weights": "spf-targets", "seed": "spf-seed", "pairs": "spf-pairs-count", "hold": "spf-hold",
    **{name: f"spf-more/spf-{place}" for name, place in {
        "negative_prompt": "negative", "num_inference_steps": "steps", "guidance_scale": "guidance", "map_steps": "map-steps",
        "scheduler": "scheduler", "width": "width", "height": "height", "smoothing": "smoothing", "interval": "interval",
        "start": "start", "floor": "floor", "heal": "heal",
        "picture": "restore", "settings": "preset",
        "settings_name": "preset-name"}.items()}}


@dataclass(frozen=True, eq=False)
class Fields(Group):
    """The form's components, in the order of `handlers.Form`."""

    model: gr.Dropdown
    customization: gr.Dropdown
    base_text: gr.Textbox
    targets: gr.HTML
    negative: gr.Textbox
    seed: gr.Textbox
    steps: gr.Number
    guidance: gr.Number
    map_steps: gr.Number
    scheduler: gr.Dropdown
    width: gr.Textbox
    height: gr.Textbox
    pairs: gr.Number
    hold: gr.Slider
    smoothing: gr.Number
    interval: gr.Number
    start: gr.Number
    floor: gr.Number
    heal: gr.Number

    @staticmethod
    def read(values: tuple[Any, ...]) -> Form:
        """The form out of the values of `all()`."""
        model, customization, base_text, targets, *rest = values
        return Form(model, customization or "", base_text, chips.chips_of(targets), *rest)

    @staticmethod
    def write(form: Form | None) -> list[Any]:
        """Values for `all()` that show `form`; all are skipped without one."""
        if form is None:
            return [gr.skip()] * len(Fields.__annotations__)
        phrases = chips.value(form.targets, catalog.phrases(form.customization))
        return [form.model, _customizations(form.model, form.customization), form.base_text, phrases,
                form.negative, str(form.seed), form.steps, form.guidance, form.map_steps, form.scheduler, form.width,
                form.height, form.pairs, form.hold, form.smoothing, form.interval, form.start,
                form.floor, form.heal]


def _customizations(model: str, chosen: str) -> Any:
    """The choice, with a mix as a line of its own."""
    choices = catalog.customization_choices(model)
    if chosen not in [name for _, name in choices]:
        choices.append((strings.CUSTOMIZATION_MIX.format(mix=chosen), chosen))
    return gr.update(choices=choices, value=chosen)


@dataclass(frozen=True, eq=False)
class View(Group):
    """The components that a Screen is written to."""

    viewer: gr.HTML
    caption: gr.HTML
    status: gr.HTML
    notice: gr.HTML
    generate: gr.Button
    cancel: gr.Button
    map_key: gr.Dropdown
    step: gr.Slider
    timeline: gr.HTML
    pairs: gr.HTML

    @staticmethod
    def write(screen: Screen) -> list[Any]:
        """Updates for `all()`; what the screen leaves out is skipped."""
        panes = None if screen.panes is None else viewer.value(screen.panes)
        plain = [gr.skip() if value is None else value for value in (
            panes, screen.caption, screen.status, screen.notice)]
        busy, count = screen.busy, screen.map_count
        return [
            *plain,
            gr.skip() if busy is None else gr.update(interactive=not busy),
            gr.skip() if busy is None else gr.update(interactive=busy),
            gr.skip() if screen.map_choices is None else gr.update(choices=screen.map_choices, value=screen.map_key),
            gr.skip() if count is None else gr.update(
                maximum=max(count, 2), value=screen.map_step, interactive=count > 1),
            gr.skip() if screen.timeline is None else screen.timeline,
            gr.skip() if screen.pairs is None else screen.pairs]

    def stream(self, screens: Iterable[Screen]) -> Iterator[list[Any]]:
        """Updates for `all()`, one by one. Without any, all are skipped: gradio empties what nothing is written to."""
        written = False
        for screen in screens:
            written = True
            yield self.write(screen)
        if not written:
            yield [gr.skip() for _ in self.all()]


@dataclass(frozen=True, eq=False)
class Looks(Group):
    """The controls of the overlay, in the order of `session.Look`."""

    map_key: gr.Dropdown
    mean: gr.Checkbox
    step: gr.Slider
    opacity: gr.Slider


@dataclass(frozen=True, eq=False)
class GeneratePanel:
    """What the rest of the page needs to know of this tab."""

    session: gr.State
    browser: gr.BrowserState  # what a reload keeps: the name of the timeline and the form
    fields: Fields
    view: View


@dataclass(frozen=True, eq=False)
class _Presets:
    """Settings under a name."""

    choice: gr.Dropdown
    name: gr.Textbox
    save: gr.Button
    delete: gr.Button


@dataclass(frozen=True, eq=False)
class _Controls:
    dice: gr.Button
    live: gr.Checkbox
    picture: gr.File
    presets: _Presets


def add_panel(service: Service) -> GeneratePanel:
    """Lay out the tab inside the current gradio context, and wire it to `service`."""
    session = gr.State(Session())
    browser = gr.BrowserState({}, storage_key="spf-portrait-studio", secret="spf-portrait-studio")
    with gr.Row(elem_classes="spf-studio"):
        with gr.Column(scale=2, min_width=300, elem_classes="spf-form"):
            fields, controls, actions = _form()
        with gr.Column(scale=5, min_width=320, elem_classes="spf-stage"):
            pictures = viewer.viewer("spf-viewer")
            caption = gr.HTML(markup.caption(strings.MAP_BEFORE), elem_id="spf-caption")
            looks = _looks()
            status = gr.HTML(markup.quiet(strings.STATUS_OPENING), elem_id="spf-status")
            together = pairs.pairs("spf-pairs")
            timeline = steps.timeline("spf-timeline")
    generate, cancel, words = actions
    view = View(pictures, caption, status, words, generate, cancel, looks.map_key, looks.step, timeline, together)
    panel = GeneratePanel(session, browser, fields, view)
    model_chosen, customization_chosen = _wire_choices(fields)
    _wire_generation(service, panel, controls, customization_chosen)
    _wire_timeline(panel)
    _wire_looks(panel, looks)
    _wire_form(panel, controls, model_chosen)
    return panel


def _form() -> tuple[Fields, _Controls, tuple[gr.Button, gr.Button, gr.HTML]]:
    preset = model_preset(catalog.DEFAULT_MODEL)
    model = gr.Dropdown(catalog.models(), value=preset.name, label=strings.MODEL, filterable=False, elem_id="spf-model")
    customization = gr.Dropdown(
        [(strings.NO_CUSTOMIZATION, "")], value="", label=strings.CUSTOMIZATION, filterable=False,
        elem_id="spf-customization")
    base_text = gr.Textbox(
        preset.base_text, label=strings.BASE_TEXT, info=strings.BASE_TEXT_HINT, lines=3, max_lines=8,
        elem_id="spf-base-text")
    targets = chips.chips("spf-targets")
    live = gr.Checkbox(True, label=strings.LIVE, elem_id="spf-live")
    hold = gr.Slider(0, 6, value=HoldConfig().gain, step=0.5, label=strings.HOLD, info=strings.HOLD_HINT, buttons=[],
                     elem_id="spf-hold")
    with gr.Row(elem_classes="spf-seed"):
        seed = gr.Textbox("8", label=strings.SEED, max_lines=1, min_width=60, elem_id="spf-seed")
        dice = gr.Button(strings.DICE, size="sm", min_width=60, elem_id="spf-dice")
        count = _number("pairs-count", strings.PAIRS, 1)
    actions = _actions()
    negative, (numbers, drawn_as, held), picture, named = _more(preset)
    form = Fields(model, customization, base_text, targets, negative, seed, *numbers, *drawn_as, count, hold, *held)
    return form, _Controls(dice, live, picture, named), actions


def _more(preset: ModelPreset) -> tuple[gr.Textbox, tuple[tuple[Any, ...], ...], gr.File, _Presets]:
    with fold(strings.MORE, "spf-more"):
        negative = gr.Textbox("", label=strings.NEGATIVE, info=strings.NEGATIVE_HINT, elem_id="spf-negative")
        with gr.Row(elem_classes="spf-numbers"):
            numbers = (_number("steps", strings.STEPS, preset.num_inference_steps),
                       _number("guidance", strings.GUIDANCE, preset.guidance_scale, step=0.5),
                       _number("map-steps", strings.MAP_STEPS, 5))
        scheduler = gr.Dropdown([(label, name) for name, label in strings.SCHEDULERS.items()], value="",
                                label=strings.SCHEDULER, filterable=False, elem_id="spf-scheduler")
        with gr.Row(elem_classes="spf-numbers spf-two"):
            # gradio makes an empty Number 0 when it comes to the page
            sides = [gr.Textbox("", label=label, placeholder=str(preset.resolution), max_lines=1, min_width=60,
                                elem_id=f"spf-{side}") for side, label in (("width", strings.WIDTH), ("height", strings.HEIGHT))]
        gr.HTML(markup.quiet(strings.HOLD_MORE))
        with gr.Row(elem_classes="spf-numbers"):
            held = (_number("smoothing", strings.SMOOTHING, HoldConfig().smoothing, step=0.1),
                    _number("interval", strings.INTERVAL, HoldConfig().interval),
                    _number("start", strings.HOLD_START, HoldConfig().start, step=0.05))
        gr.HTML(markup.quiet(strings.HOLD_SEAMS))
        with gr.Row(elem_classes="spf-numbers spf-two"):
            held += (_number("floor", strings.FLOOR, HoldConfig().floor, step=0.05),
                     _number("heal", strings.HEAL, HoldConfig().heal, step=0.05))
        named = _presets()
        picture = gr.File(label=strings.RESTORE, file_types=[".png"], height=140, elem_id="spf-restore")
        gr.HTML(markup.quiet(strings.RESTORE_HINT))
    return negative, (numbers, (scheduler, *sides), held), picture, named


def _presets() -> _Presets:
    choice = gr.Dropdown([], label=strings.PRESET, info=strings.PRESET_HINT, filterable=False, elem_id="spf-preset")
    name = gr.Textbox("", label=strings.PRESET_NAME, info=strings.NAME_HINT, max_lines=1, elem_id="spf-preset-name")
    with gr.Row(elem_classes="spf-actions"):
        save = gr.Button(strings.PRESET_SAVE, size="sm", min_width=80, elem_id="spf-preset-save")
        delete = gr.Button(strings.PRESET_DELETE, size="sm", min_width=80, elem_id="spf-preset-delete")
    return _Presets(choice, name, save, delete)


def _number(name: str, label: str, value: float, step: float = 1) -> gr.Number:
    """A number without limits of its own: what is out of range is refused with the label and the remedy."""
    return gr.Number(value, label=label, step=step, min_width=60, elem_id=f"spf-{name}")


def _actions() -> tuple[gr.Button, gr.Button, gr.HTML]:
    with gr.Row(elem_classes="spf-actions"):
        generate = gr.Button(strings.GENERATE, variant="primary", interactive=False, scale=3, elem_id="spf-generate")
        cancel = gr.Button(strings.CANCEL, interactive=False, scale=1, min_width=80, elem_id="spf-cancel")
    return generate, cancel, notice("spf-notice", _PLACES)


def _looks() -> Looks:
    with gr.Row(elem_classes="spf-looks"):
        with gr.Column(min_width=200):
            map_key = gr.Dropdown(
                maps.choices(None), value=maps.SFCM, label=strings.MAP_CHOICE, filterable=False, elem_id="spf-map")
        with gr.Column(min_width=200):
            step = gr.Slider(1, 5, value=1, step=1, label=strings.MAP_OF_STEP, interactive=False, buttons=[],
                             elem_id="spf-step")
            mean = gr.Checkbox(True, label=strings.MAP_MEAN, elem_id="spf-mean")
        with gr.Column(min_width=200):
            gr.HTML(markup.legend())
            opacity = gr.Slider(0, 1, value=Look().opacity, step=0.05, label=strings.OPACITY, buttons=[],
                                elem_id="spf-opacity")
    return Looks(map_key, mean, step, opacity)


def _wire_generation(service: Service, panel: GeneratePanel, controls: _Controls, chosen: Any) -> None:
    """`chosen` is what a choice of a customization starts: its phrases stand in the form before it is drawn."""
    view = panel.view
    inputs = [panel.session, *panel.fields.all()]
    # the status line tells the progress: gradio's own clock would repaint the page sixty times a second meanwhile
    options = {"concurrency_limit": 1, "concurrency_id": DEVICE_QUEUE, "show_progress": "hidden", "api_visibility": "private"}

    def generate(session: Session, *values: Any) -> Iterator[list[Any]]:
        yield from view.stream(handlers.generate(service, Fields.read(values), session))

    def redraw(session: Session, live: bool, *values: Any) -> Iterator[list[Any]]:
        form = Fields.read(values)
        yield from view.stream(handlers.generate(service, form, session) if handlers.wants_redraw(session, form, live) else ())

    def supersede(session: Session, live: bool, *values: Any) -> None:
        if live:
            handlers.supersede(session, Fields.read(values))

    # an old refusal goes at once: one that comes again is then news, and marks its field again
    queued = json.dumps([markup.quiet(strings.STATUS_QUEUED), ""])
    view.generate.click(None, None, [view.status, view.notice], js=f"() => {queued}", **QUIET)
    view.generate.click(generate, inputs, view.all(), **options)
    view.cancel.click(handlers.cancel, [panel.session], None, **QUIET)
    for changed in (panel.fields.targets.input, chosen.then, panel.fields.hold.release):
        changed(supersede, [panel.session, controls.live, *panel.fields.all()], None, **QUIET)
        changed(redraw, [panel.session, controls.live, *panel.fields.all()], view.all(),
                trigger_mode="always_last", **options)


def _wire_timeline(panel: GeneratePanel) -> None:
    both, session = [*panel.fields.all(), *panel.view.all()], [panel.session]
    timeline = panel.view.timeline

    def shown(found: tuple[Form | None, Screen]) -> list[Any]:
        return [*Fields.write(found[0]), *View.write(found[1])]

    def select(session: Session, event: gr.EventData) -> list[Any]:
        return shown(timeline_handlers.go(session, event.step))

    def pin(session: Session, event: gr.EventData) -> list[Any]:
        return View.write(timeline_handlers.pin(session, event.step))

    def choose(session: Session, event: gr.EventData) -> list[Any]:
        return shown(timeline_handlers.choose(session, str(event.folder)))

    timeline.select(select, session, both, **QUIET)
    panel.view.pairs.select(choose, session, both, **QUIET)
    timeline.undo(lambda session: shown(timeline_handlers.undo(session)), session, both, **QUIET)
    timeline.redo(lambda session: shown(timeline_handlers.redo(session)), session, both, **QUIET)
    timeline.pin(pin, session, panel.view.all(), **QUIET)
    timeline.strip(lambda session: View.write(timeline_handlers.chain(session)), session, panel.view.all(), **QUIET)


def _wire_looks(panel: GeneratePanel, looks: Looks) -> None:
    outputs = [panel.view.viewer, panel.view.caption]

    def redraw(session: Session, key: str, mean: bool, step: float, opacity: float) -> list[Any]:
        return View.write(handlers.redraw(session, Look(key, mean, int(step), opacity)))[:2]

    def redraw_step(session: Session, key: str, _mean: bool, step: float, opacity: float) -> list[Any]:
        return [*redraw(session, key, False, step, opacity), False]

    options = QUIET | {"trigger_mode": "always_last"}
    inputs = [panel.session, *looks.all()]
    for listen in (looks.map_key.input, looks.mean.input, looks.opacity.input):
        listen(redraw, inputs, outputs, **options)
    looks.step.input(redraw_step, inputs, [*outputs, looks.mean], **options)


def _wire_form(panel: GeneratePanel, controls: _Controls, model_chosen: Any) -> None:
    fields = panel.fields

    def drop(path: str | None) -> list[Any]:
        form, words = timeline_handlers.dropped(path)
        return [*Fields.write(form), words]

    _wire_presets(panel, controls.presets)
    controls.dice.click(handlers.dice, None, [fields.seed], **QUIET)
    controls.picture.upload(drop, [controls.picture], [*fields.all(), panel.view.notice], **QUIET)
    _wire_memory(panel, model_chosen)


def _wire_choices(fields: Fields) -> tuple[Any, Any]:
    """What another model or customization brings with it; the events of both, for what comes after."""
    def choose_customization(name: str, payload: Any) -> dict[str, list]:
        return chips.value(handlers.targets_for(name, chips.chips_of(payload)), catalog.phrases(name))

    def choose_model(model: str) -> list[Any]:
        preset = model_preset(model)
        choices = gr.update(choices=catalog.customization_choices(model), value=catalog.preselected(model))
        sides = [gr.update(placeholder=str(preset.resolution))] * 2
        return [choices, preset.num_inference_steps, preset.guidance_scale, *sides]

    its_phrases = (choose_customization, [fields.customization, fields.targets], [fields.targets])
    model_chosen = fields.model.input(
        choose_model, [fields.model], [fields.customization, fields.steps, fields.guidance, fields.width, fields.height], **QUIET)
    # the phrases only then: their change is told at once, and the customization of the model before would be told with it
    return model_chosen.then(*its_phrases, **QUIET), fields.customization.input(*its_phrases, **QUIET)


def _wire_presets(panel: GeneratePanel, controls: _Presets) -> None:
    fields = panel.fields.all()

    def listed(chosen: str | None) -> Any:
        return gr.update(choices=presets.names(), value=chosen)

    def save(name: str, *values: Any) -> list[Any]:
        words, done = told(lambda: presets.save(name, Fields.read(values)))
        return [words, listed(name.strip()) if done else gr.skip()]

    def use(name: str | None, *values: Any) -> list[Any]:
        found: list[Form] = []
        words, done = told(lambda: found.append(presets.use(name, Fields.read(values))) or "")
        return [words, *Fields.write(found[0] if done else None)]

    def delete(name: str | None) -> list[Any]:
        words, done = told(lambda: presets.delete(name))
        return [words, listed(None) if done else gr.skip()]

    controls.save.click(save, [controls.name, *fields], [panel.view.notice, controls.choice], **QUIET)
    controls.choice.focus(lambda chosen: listed(chosen if chosen in presets.names() else None), [controls.choice],
                          [controls.choice], **QUIET)
    controls.choice.input(use, [controls.choice, *fields], [panel.view.notice, *fields], **QUIET)
    controls.delete.click(delete, [controls.choice], [panel.view.notice, controls.choice], **QUIET)


def _wire_memory(panel: GeneratePanel, model_chosen: Any) -> None:
    """The browser remembers the form whenever a field was changed and left, or filled in by another choice or another tab.

    A model only once its customizations are listed: with those of the one before, the form would be refused.
    """
    fields = panel.fields

    def remember(session: Session, *values: Any) -> dict[str, Any]:
        return {"timeline": session.timeline.key, "form": asdict(Fields.read(values))}

    # one listener: with one for each, an answer on its way could overtake the one that came after it
    gr.on([fields.customization.change, fields.base_text.blur, fields.targets.change, fields.negative.blur,
           fields.seed.change, fields.steps.blur, fields.guidance.blur, fields.map_steps.blur, fields.scheduler.input,
           fields.width.blur, fields.height.blur, fields.pairs.blur, fields.hold.release, fields.smoothing.blur,
           fields.interval.blur, fields.start.blur, fields.floor.blur, fields.heal.blur,
           panel.view.generate.click, panel.view.timeline.change],
          remember, [panel.session, *fields.all()], [panel.browser], trigger_mode="always_last", **QUIET)
    model_chosen.then(remember, [panel.session, *fields.all()], [panel.browser], **QUIET)


def opened(panel: GeneratePanel, demo: gr.Blocks) -> None:
    """When the page opens: the timeline and the form that this browser left, or the first form with today's choices.

    Generate can be pressed from then on: before, it would draw what the form does not say yet.
    """
    def fill(session: Session, remembered: Any, *values: Any) -> list[Any]:
        key, kept, gone = handlers.remembered(remembered)
        _, screen = timeline_handlers.reopen(session, key) if key else (None, Screen())
        form = kept or handlers.first_form(Fields.read(values))
        status = screen.status or markup.quiet(strings.STATUS_READY)
        return [*Fields.write(form), *View.write(replace(screen, status=status, busy=False, notice=gone or screen.notice))]

    demo.load(fill, [panel.session, panel.browser, *panel.fields.all()], [*panel.fields.all(), *panel.view.all()], **QUIET)
