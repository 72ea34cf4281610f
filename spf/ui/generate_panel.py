"""The Portrait tab: form on the left, pictures in the centre, this session's results below."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from spf.config import model_preset
from spf.ui import catalog, chips, maps, markup, strings
from spf.ui import generate_handlers as handlers
from spf.ui.generate_handlers import Form, Screen
from spf.ui.live import Service
from spf.ui.session import Look, Session

DEVICE_QUEUE = "device"  # events that run the model wait for one another
_QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True, eq=False)
class Fields:
    """The form's components, in the order of `handlers.Form`."""

    model: gr.Dropdown
    customization: gr.Dropdown
    base_text: gr.Textbox
    targets: gr.HTML
    seed: gr.Textbox
    steps: gr.Number
    guidance: gr.Number
    map_steps: gr.Number

    def all(self) -> list[gr.components.Component]:
        return list(vars(self).values())

    @staticmethod
    def read(values: tuple[Any, ...]) -> Form:
        """The form out of the values of `all()`."""
        model, customization, base_text, targets, *numbers = values
        return Form(model, customization or "", base_text, chips.targets_of(targets), *numbers)

    @staticmethod
    def write(form: Form) -> list[Any]:
        """Values for `all()` that show `form`."""
        choices = catalog.customization_choices(form.model)
        phrases = chips.value(form.targets, catalog.phrases(form.customization))
        return [form.model, gr.update(choices=choices, value=form.customization), form.base_text, phrases,
                str(form.seed), form.steps, form.guidance, form.map_steps]


@dataclass(frozen=True, eq=False)
class View:
    """The components that `handlers.Screen` is written to."""

    original: gr.Image
    customized: gr.Image
    overlay: gr.Image
    caption: gr.HTML
    status: gr.HTML
    notice: gr.HTML
    generate: gr.Button
    cancel: gr.Button
    map_key: gr.Dropdown
    step: gr.Slider
    strip_box: gr.Column
    strip: gr.Gallery

    def all(self) -> list[Any]:
        return list(vars(self).values())

    @staticmethod
    def write(screen: Screen) -> list[Any]:
        """Updates for `all()`; what the screen leaves out is skipped."""
        plain = [gr.skip() if value is None else value for value in (
            screen.original, screen.customized, screen.overlay, screen.caption, screen.status, screen.notice)]
        busy, count, results = screen.busy, screen.map_count, screen.strip
        return [
            *plain,
            gr.skip() if busy is None else gr.update(interactive=not busy),
            gr.skip() if busy is None else gr.update(interactive=busy),
            gr.skip() if screen.map_choices is None else gr.update(choices=screen.map_choices, value=screen.map_key),
            gr.skip() if count is None else gr.update(
                maximum=max(count, 2), value=screen.map_step, interactive=count > 1),
            gr.skip() if results is None else gr.update(visible=bool(results)),
            gr.skip() if results is None else gr.update(value=results, selected_index=None)]


@dataclass(frozen=True, eq=False)
class Looks:
    """The controls of the overlay, in the order of `session.Look`."""

    map_key: gr.Dropdown
    mean: gr.Checkbox
    step: gr.Slider
    opacity: gr.Slider

    def all(self) -> list[gr.components.Component]:
        return list(vars(self).values())


@dataclass(frozen=True, eq=False)
class GeneratePanel:
    """What the rest of the page needs to know of this tab."""

    session: gr.State
    fields: Fields
    view: View


def add_panel(service: Service) -> GeneratePanel:
    """Lay out the tab inside the current gradio context, and wire it to `service`."""
    session = gr.State(Session())
    with gr.Row(elem_classes="spf-studio"):
        with gr.Column(scale=2, min_width=300, elem_classes="spf-form"):
            fields, dice = _form()
            generate, cancel, notice = _actions()
        with gr.Column(scale=5, min_width=320, elem_classes="spf-stage"):
            pictures = _pictures()
            caption = gr.HTML(markup.caption(strings.MAP_BEFORE), elem_id="spf-caption")
            looks = _looks()
            status = gr.HTML(markup.quiet(strings.STATUS_OPENING), elem_id="spf-status")
    with gr.Column(visible=False, elem_classes="spf-strip-box") as strip_box:
        gr.HTML(markup.heading(strings.STRIP, strings.STRIP_HINT))
        strip = _strip()
    view = View(*pictures, caption, status, notice, generate, cancel, looks.map_key, looks.step, strip_box, strip)
    panel = GeneratePanel(session, fields, view)
    _wire_generation(service, panel)
    _wire_restore(panel)
    _wire_looks(panel, looks)
    _wire_form(panel, dice)
    return panel


def _form() -> tuple[Fields, gr.Button]:
    preset = model_preset(catalog.DEFAULT_MODEL)
    model = gr.Dropdown(catalog.models(), value=preset.name, label=strings.MODEL, filterable=False, elem_id="spf-model")
    customization = gr.Dropdown(
        [(strings.NO_CUSTOMIZATION, "")], value="", label=strings.CUSTOMIZATION, filterable=False,
        elem_id="spf-customization")
    base_text = gr.Textbox(
        preset.base_text, label=strings.BASE_TEXT, info=strings.BASE_TEXT_HINT, lines=3, max_lines=8,
        elem_id="spf-base-text")
    targets = chips.chips("spf-targets")
    with gr.Row(elem_classes="spf-numbers"):
        with gr.Row(elem_classes="spf-seed"):
            seed = gr.Textbox("3", label=strings.SEED, max_lines=1, min_width=60, elem_id="spf-seed")
            dice = gr.Button(strings.DICE, size="sm", min_width=60, elem_id="spf-dice")
        steps = _number("steps", strings.STEPS, preset.num_inference_steps)
        guidance = _number("guidance", strings.GUIDANCE, preset.guidance_scale, step=0.5)
        map_steps = _number("map-steps", strings.MAP_STEPS, 5)
    return Fields(model, customization, base_text, targets, seed, steps, guidance, map_steps), dice


def _number(name: str, label: str, value: float, step: float = 1) -> gr.Number:
    """A number without limits of its own: what is out of range is refused with the label and the remedy."""
    return gr.Number(value, label=label, step=step, min_width=60, elem_id=f"spf-{name}")


def _actions() -> tuple[gr.Button, gr.Button, gr.HTML]:
    with gr.Row(elem_classes="spf-actions"):
        generate = gr.Button(strings.GENERATE, variant="primary", scale=3, elem_id="spf-generate")
        cancel = gr.Button(strings.CANCEL, interactive=False, scale=1, min_width=80, elem_id="spf-cancel")
    return generate, cancel, gr.HTML("", elem_id="spf-notice")


def _pictures() -> list[gr.Image]:
    names = (("original", strings.ORIGINAL), ("customized", strings.CUSTOMIZED), ("overlay", strings.OVERLAY))
    with gr.Row(elem_classes="spf-pictures"):
        return [_picture(title, f"spf-{name}") for name, title in names]


def _picture(title: str, elem_id: str) -> gr.Image:
    with gr.Column(min_width=100, elem_classes="spf-picture"):
        gr.HTML(markup.heading(title))
        return gr.Image(
            format="png", type="pil", interactive=False, show_label=False, label=title, alt_text=title, min_width=100,
            buttons=["download", "fullscreen"], elem_id=elem_id)


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


def _strip() -> gr.Gallery:
    return gr.Gallery(
        show_label=False, label=strings.STRIP, format="png", columns=10, height="auto", object_fit="cover",
        allow_preview=False, fit_columns=False, interactive=False, buttons=[], elem_id="spf-strip")


def _wire_generation(service: Service, panel: GeneratePanel) -> None:
    def generate(session: Session, *values: Any) -> Iterator[list[Any]]:
        for screen in handlers.generate(service, Fields.read(values), session):
            yield View.write(screen)

    view = panel.view
    view.generate.click(
        generate, [panel.session, *panel.fields.all()], view.all(), concurrency_limit=1, concurrency_id=DEVICE_QUEUE,
        show_progress="minimal", show_progress_on=[view.status], api_visibility="private")
    view.cancel.click(handlers.cancel, [panel.session], None, **_QUIET)


def _wire_restore(panel: GeneratePanel) -> None:
    def restore(session: Session, event: gr.SelectData) -> list[Any]:
        form, screen = handlers.restore(session, event.index)
        return [*Fields.write(form), *View.write(screen)]

    panel.view.strip.select(restore, [panel.session], [*panel.fields.all(), *panel.view.all()], **_QUIET)


def _wire_looks(panel: GeneratePanel, looks: Looks) -> None:
    outputs = [panel.view.overlay, panel.view.caption]

    def redraw(session: Session, key: str, mean: bool, step: float, opacity: float) -> list[Any]:
        screen = handlers.redraw(session, Look(key, mean, int(step), opacity))
        return [gr.skip() if screen.overlay is None else screen.overlay, screen.caption]

    def redraw_step(session: Session, key: str, _mean: bool, step: float, opacity: float) -> list[Any]:
        return [*redraw(session, key, False, step, opacity), False]

    options = _QUIET | {"trigger_mode": "always_last"}
    inputs = [panel.session, *looks.all()]
    for listen in (looks.map_key.input, looks.mean.input, looks.opacity.input):
        listen(redraw, inputs, outputs, **options)
    looks.step.input(redraw_step, inputs, [*outputs, looks.mean], **options)


def _wire_form(panel: GeneratePanel, dice: gr.Button) -> None:
    fields = panel.fields

    def choose_customization(name: str, payload: Any) -> dict[str, list[str]]:
        targets = handlers.targets_for(name, list(chips.targets_of(payload)))
        return chips.value(targets, catalog.phrases(name))

    def choose_model(model: str, payload: Any) -> list[Any]:
        preset, name = model_preset(model), catalog.preselected(model)
        choices = gr.update(choices=catalog.customization_choices(model), value=name)
        return [choices, choose_customization(name, payload), preset.num_inference_steps, preset.guidance_scale]

    dice.click(handlers.dice, None, [fields.seed], **_QUIET)
    fields.customization.input(
        choose_customization, [fields.customization, fields.targets], [fields.targets], **_QUIET)
    fields.model.input(
        choose_model, [fields.model, fields.targets],
        [fields.customization, fields.targets, fields.steps, fields.guidance], **_QUIET)


def opened(panel: GeneratePanel, demo: gr.Blocks) -> None:
    """When the page opens: list the customizations of today, and choose one with its phrase."""
    def fill(model: str) -> list[Any]:
        name = catalog.preselected(model)
        choices = gr.update(choices=catalog.customization_choices(model), value=name)
        known = catalog.phrases(name)
        return [choices, chips.value(known[:1], known), markup.quiet(strings.STATUS_READY)]

    fields = panel.fields
    demo.load(fill, [fields.model], [fields.customization, fields.targets, panel.view.status], **_QUIET)
