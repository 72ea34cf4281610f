"""The Portrait tab: form on the left, pictures in the centre, this session's results below."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from spf.config import model_preset
from spf.ui import catalog, generate_handlers as handlers, maps, markup, strings
from spf.ui.chips import chips, targets_of, value as chips_value
from spf.ui.generate_handlers import Form, Screen
from spf.ui.live import Service
from spf.ui.session import Look, Session

DEVICE_QUEUE = "device"  # events that run the model wait for one another


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
        return Form(model, customization or "", base_text, targets_of(targets), *numbers)

    @staticmethod
    def write(form: Form) -> list[Any]:
        """Values for `all()` that show `form`."""
        return [form.model, gr.update(choices=catalog.customization_choices(form.model), value=form.customization),
                form.base_text, chips_value(form.targets, catalog.phrases(form.customization)), str(form.seed), form.steps,
                form.guidance, form.map_steps]


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
    strip: gr.Gallery

    def all(self) -> list[gr.components.Component]:
        return list(vars(self).values())

    @staticmethod
    def write(screen: Screen) -> list[Any]:
        """Updates for `all()`; what the screen leaves out is skipped."""
        plain = [gr.skip() if value is None else value for value in (
            screen.original, screen.customized, screen.overlay, screen.caption, screen.status, screen.notice)]
        busy, count = screen.busy, screen.map_count
        return [
            *plain,
            gr.skip() if busy is None else gr.update(interactive=not busy),
            gr.skip() if busy is None else gr.update(interactive=busy),
            gr.skip() if screen.map_choices is None else gr.update(choices=screen.map_choices, value=screen.map_key),
            gr.skip() if count is None else gr.update(maximum=max(count, 2), interactive=count > 1),
            gr.skip() if screen.strip is None else gr.update(value=screen.strip, visible=bool(screen.strip), selected_index=None),
        ]


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
            fields, dice, buttons = _form()
        with gr.Column(scale=5, min_width=320, elem_classes="spf-stage"):
            pictures, looks, status = _stage()
    gallery = gr.Gallery(
        label=strings.STRIP, format="png", columns=8, rows=1, height=190, object_fit="contain", allow_preview=False,
        visible=False, interactive=False, buttons=[], elem_id="spf-strip")
    view = View(*pictures, status, buttons[2], buttons[0], buttons[1], looks[0], looks[2], gallery)
    panel = GeneratePanel(session, fields, view)
    _wire_generation(service, panel)
    _wire_looks(panel, *looks)
    _wire_form(panel, dice)
    return panel


def _form() -> tuple[Fields, gr.Button, tuple[gr.Button, gr.Button, gr.HTML]]:
    preset = model_preset(catalog.DEFAULT_MODEL)
    model = gr.Dropdown(catalog.models(), value=preset.name, label=strings.MODEL, filterable=False, elem_id="spf-model")
    customization = gr.Dropdown(
        [(strings.NO_CUSTOMIZATION, "")], value="", label=strings.CUSTOMIZATION, filterable=False, elem_id="spf-customization")
    base_text = gr.Textbox(preset.base_text, label=strings.BASE_TEXT, info=strings.BASE_TEXT_HINT, lines=3, max_lines=8,
                           elem_id="spf-base-text")
    targets = chips("spf-targets")
    with gr.Row(elem_classes="spf-numbers"):
        with gr.Row(elem_classes="spf-seed"):
            seed = gr.Textbox("7", label=strings.SEED, max_lines=1, min_width=60, elem_id="spf-seed")
            dice = gr.Button(strings.DICE, size="sm", min_width=40, elem_id="spf-dice")
        steps = gr.Number(preset.num_inference_steps, label=strings.STEPS, min_width=60, elem_id="spf-steps")
        guidance = gr.Number(preset.guidance_scale, label=strings.GUIDANCE, step=0.5, min_width=60, elem_id="spf-guidance")
        map_steps = gr.Number(5, label=strings.MAP_STEPS, min_width=60, elem_id="spf-map-steps")
    with gr.Row(elem_classes="spf-actions"):
        generate = gr.Button(strings.GENERATE, variant="primary", scale=3, elem_id="spf-generate")
        cancel = gr.Button(strings.CANCEL, interactive=False, scale=1, min_width=80, elem_id="spf-cancel")
    notice = gr.HTML("", elem_id="spf-notice")
    return Fields(model, customization, base_text, targets, seed, steps, guidance, map_steps), dice, (generate, cancel, notice)


def _stage() -> tuple[tuple, tuple[gr.Dropdown, gr.Checkbox, gr.Slider, gr.Slider], gr.HTML]:
    with gr.Row(elem_classes="spf-pictures"):
        pictures = [_picture(strings.ORIGINAL, "spf-original"), _picture(strings.CUSTOMIZED, "spf-customized"),
                    _picture(strings.OVERLAY, "spf-overlay")]
    caption = gr.HTML(markup.caption(strings.MAP_BEFORE), elem_id="spf-caption")
    with gr.Row(elem_classes="spf-looks"):
        map_key = gr.Dropdown(maps.choices(None), value=maps.SFCM, label=strings.MAP_CHOICE, filterable=False, min_width=200,
                              scale=3, elem_id="spf-map")
        with gr.Column(scale=3, min_width=200):
            mean = gr.Checkbox(True, label=strings.MAP_MEAN, elem_id="spf-mean")
            step = gr.Slider(1, 5, value=1, step=1, label=strings.MAP_OF_STEP, buttons=[], elem_id="spf-step")
        with gr.Column(scale=3, min_width=200):
            gr.HTML(markup.legend())
            opacity = gr.Slider(0, 1, value=Look().opacity, step=0.05, label=strings.OPACITY, buttons=[], elem_id="spf-opacity")
    status = gr.HTML(markup.quiet(strings.STATUS_READY), elem_id="spf-status")
    return (*pictures, caption), (map_key, mean, step, opacity), status


def _picture(title: str, elem_id: str) -> gr.Image:
    with gr.Column(min_width=120, elem_classes="spf-picture"):
        gr.HTML(markup.heading(title))
        return gr.Image(format="png", type="pil", interactive=False, show_label=False, label=title,
                        buttons=["download", "fullscreen"], elem_id=elem_id, alt_text=title)


def _wire_generation(service: Service, panel: GeneratePanel) -> None:
    def generate(session: Session, *values: Any) -> Iterator[list[Any]]:
        for screen in handlers.generate(service, Fields.read(values), session):
            yield View.write(screen)

    view = panel.view
    view.generate.click(
        generate, [panel.session, *panel.fields.all()], view.all(), concurrency_limit=1, concurrency_id=DEVICE_QUEUE,
        show_progress="minimal", show_progress_on=[view.status], api_visibility="private")
    view.cancel.click(handlers.cancel, [panel.session], None, queue=False, api_visibility="private")

    def restore(session: Session, event: gr.SelectData) -> list[Any]:
        form, screen = handlers.restore(session, event.index)
        return [*Fields.write(form), *View.write(screen)]

    view.strip.select(restore, [panel.session], [*panel.fields.all(), *view.all()], queue=False, show_progress="hidden",
                      api_visibility="private")


def _wire_looks(panel: GeneratePanel, map_key: gr.Dropdown, mean: gr.Checkbox, step: gr.Slider, opacity: gr.Slider) -> None:
    outputs = [panel.view.overlay, panel.view.caption]

    def redraw(session: Session, key: str, mean_of_all: bool, which: int, strength: float) -> list[Any]:
        screen = handlers.redraw(session, Look(key, mean_of_all, int(which), strength))
        return [gr.skip() if screen.overlay is None else screen.overlay, screen.caption]

    def redraw_step(session: Session, key: str, which: int, strength: float) -> list[Any]:
        return [*redraw(session, key, False, which, strength), False]

    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
    inputs = [panel.session, map_key, mean, step, opacity]
    for listen in (map_key.input, mean.input, opacity.input):
        listen(redraw, inputs, outputs, **quiet)
    step.input(redraw_step, [panel.session, map_key, step, opacity], [*outputs, mean], **quiet)


def _wire_form(panel: GeneratePanel, dice: gr.Button) -> None:
    fields = panel.fields

    def choose_customization(name: str, payload: Any) -> dict[str, list[str]]:
        return chips_value(handlers.targets_for(name, list(targets_of(payload))), catalog.phrases(name))

    def choose_model(model: str, payload: Any) -> list[Any]:
        preset, name = model_preset(model), catalog.preselected(model)
        choices = gr.update(choices=catalog.customization_choices(model), value=name)
        return [choices, choose_customization(name, payload), preset.num_inference_steps, preset.guidance_scale]

    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    dice.click(handlers.dice, None, [fields.seed], **quiet)
    fields.customization.input(choose_customization, [fields.customization, fields.targets], [fields.targets], **quiet)
    fields.model.input(choose_model, [fields.model, fields.targets],
                       [fields.customization, fields.targets, fields.steps, fields.guidance], **quiet)


def opened(panel: GeneratePanel, demo: gr.Blocks) -> None:
    """When the page opens: list the customizations of today, and choose one with its phrase."""
    def fill(model: str) -> list[Any]:
        name = catalog.preselected(model)
        choices = gr.update(choices=catalog.customization_choices(model), value=name)
        known = catalog.phrases(name)
        return [choices, chips_value(known[:1], known)]

    demo.load(fill, [panel.fields.model], [panel.fields.customization, panel.fields.targets], show_progress="hidden",
              api_visibility="private")
