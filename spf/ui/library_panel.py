"""The Library tab: cards of what there is; rename, delete, mix, export and import beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from spf.errors import SpfError
from spf.ui import catalog, chips, markup, strings
from spf.ui import library_handlers as handlers
from spf.ui.generate_panel import GeneratePanel
from spf.ui.wiring import QUIET, Group, fold, told


@dataclass(frozen=True, eq=False)
class Lists(Group):
    """What is read anew whenever the tab is opened or something changed."""

    cards: gr.HTML
    mine: gr.Dropdown
    mix: gr.Dataframe
    exported: gr.Dropdown

    @staticmethod
    def write(model: str) -> list[Any]:
        return [handlers.table(), gr.update(choices=handlers.choices(), value=None), handlers.mix_rows(model),
                gr.update(choices=list(catalog.customizations()))]


def add_panel(portrait: GeneratePanel, tab: gr.Tab) -> None:
    """Lay out the tab inside the current gradio context."""
    with gr.Row(elem_classes="spf-studio"):
        with gr.Column(scale=2, min_width=300, elem_classes="spf-form"):
            notice = gr.HTML("", elem_id="spf-library-notice")
            mine, manage = _manage()
            mix, use = _mix()
            exported, files = _files()
        with gr.Column(scale=5, min_width=320, elem_classes="spf-stage"):
            cards = gr.HTML("", elem_id="spf-library")
            models = gr.HTML("", elem_id="spf-models")
    lists = Lists(cards, mine, mix, exported)
    # the models come after the rest: to judge their files, torch is imported where nothing was drawn yet
    tab.select(Lists.write, [portrait.fields.model], lists.all(), **QUIET).then(handlers.models, None, [models], **QUIET)
    _wire_manage(lists, manage, notice, portrait)
    _wire_mix(portrait, mix, use, notice)
    _wire_files(lists, files, notice, portrait)


def _refreshed(model: str, chosen: str | None) -> list[Any]:
    """Updates for the choice of the Portrait tab and the lists, when what there is has changed."""
    choices, value = catalog.kept_choice(model, chosen)
    return [gr.update(choices=choices, value=value), *Lists.write(model)]


def _manage() -> tuple[gr.Dropdown, tuple]:
    with fold(strings.LIBRARY_MANAGE, expanded=True):
        mine = gr.Dropdown([], label=strings.LIBRARY_MINE, info=strings.LIBRARY_MINE_HINT, filterable=False, elem_id="spf-mine")
        wish = gr.Textbox("", label=strings.LIBRARY_NEW_NAME, max_lines=1, elem_id="spf-new-name")
        with gr.Row():
            buttons = [gr.Button(label, size="sm", min_width=90, elem_id=f"spf-library-{key}") for key, label in (
                ("rename", strings.LIBRARY_RENAME), ("delete", strings.LIBRARY_DELETE))]
        undo = gr.Button(strings.LIBRARY_UNDO, size="sm", visible=False, elem_id="spf-library-undo")
    return mine, (wish, *buttons, undo, gr.State(""))


def _mix() -> tuple[gr.Dataframe, gr.Button]:
    with fold(strings.LIBRARY_MIX):
        gr.HTML(markup.quiet(strings.LIBRARY_MIX_HINT))
        rows = gr.Dataframe(headers=strings.LIBRARY_MIX_HEADERS, column_count=2, type="array", interactive=True,
                            static_columns=[0], show_label=False, label=strings.LIBRARY_MIX, buttons=[], elem_id="spf-mix")
        return rows, gr.Button(strings.LIBRARY_MIX_USE, size="sm", elem_id="spf-mix-use")


def _files() -> tuple[gr.Dropdown, tuple]:
    with fold(strings.LIBRARY_FILES):
        exported = gr.Dropdown([], label=strings.LIBRARY_EXPORT, filterable=False, elem_id="spf-export-name")
        kinds = [(label, key) for key, label in strings.LIBRARY_EXPORT_KINDS.items()]
        kind = gr.Radio(kinds, value="lora", label=strings.LIBRARY_EXPORT_KIND, elem_id="spf-export-kind")
        go = gr.Button(strings.LIBRARY_EXPORT_GO, size="sm", elem_id="spf-export")
        result = gr.File(label=strings.LIBRARY_EXPORTED, visible=False, interactive=False, elem_id="spf-exported")
        upload = gr.File(label=strings.LIBRARY_IMPORT, file_types=[".zip", ".safetensors"], height=140, elem_id="spf-import")
        name = gr.Textbox("", label=strings.LIBRARY_IMPORT_NAME, max_lines=1, elem_id="spf-import-name")
        bring = gr.Button(strings.LIBRARY_IMPORT_GO, size="sm", elem_id="spf-import-go")
    return exported, (kind, go, result, upload, name, bring)


def _wire_manage(lists: Lists, manage: tuple, notice: gr.HTML, portrait: GeneratePanel) -> None:
    (wish, rename, delete, undo, trashed), fields = manage, portrait.fields

    def renamed(name: str | None, new: str, model: str, chosen: str | None) -> list[Any]:
        words, done = told(lambda: handlers.rename(name, new))
        return [words, *_refreshed(model, new.strip() if done and chosen == name else chosen)]

    def deleted(name: str | None, model: str, chosen: str | None) -> list[Any]:
        where: list[str] = []

        def act() -> str:
            words, path = handlers.delete(name, chosen)
            where.append(path)
            return words

        words, done = told(act)
        return [words, gr.update(visible=done), where[0] if done else "", *_refreshed(model, chosen)]

    def undone(path: str, model: str, chosen: str | None) -> list[Any]:
        return [told(lambda: handlers.undo(path))[0], gr.update(visible=False), *_refreshed(model, chosen)]

    changed, now = [fields.customization, *lists.all()], [fields.model, fields.customization]
    rename.click(renamed, [lists.mine, wish, *now], [notice, *changed], **QUIET)
    delete.click(deleted, [lists.mine, *now], [notice, undo, trashed, *changed], **QUIET)
    undo.click(undone, [trashed, *now], [notice, undo, *changed], **QUIET)


def _wire_mix(portrait: GeneratePanel, mix: gr.Dataframe, use: gr.Button, notice: gr.HTML) -> None:
    fields = portrait.fields

    def chosen(rows: list, model: str) -> list[Any]:
        try:
            text = handlers.mix(rows)
        except SpfError as error:
            return [markup.problem(error), gr.skip(), gr.skip()]
        targets = [chips.Chip(phrase) for phrase in catalog.phrases(text)]
        choices, value = catalog.kept_choice(model, text)
        return [markup.report(strings.LIBRARY_MIXED.format(mix=text)), gr.update(choices=choices, value=value),
                chips.value(targets, catalog.phrases(text))]

    use.click(chosen, [mix, fields.model], [notice, fields.customization, fields.targets], **QUIET)


def _wire_files(lists: Lists, files: tuple, notice: gr.HTML, portrait: GeneratePanel) -> None:
    (kind, go, result, upload, name, bring), fields = files, portrait.fields

    def exported(chosen: str | None, kind: str) -> list[Any]:
        written: list[str] = []

        def act() -> str:
            written.append(str(handlers.export(chosen, kind)))
            return ""

        words, done = told(act)
        return [words, gr.update(value=written[0] if done else None, visible=done)]

    def imported(path: str | None, name: str, model: str, chosen: str | None) -> list[Any]:
        return [told(lambda: handlers.bring_in(path, name))[0], *_refreshed(model, chosen)]

    options = {"concurrency_limit": 1, "show_progress": "minimal", "api_visibility": "private"}
    go.click(exported, [lists.exported, kind], [notice, result], **options)
    bring.click(imported, [upload, name, fields.model, fields.customization],
                [notice, fields.customization, *lists.all()], **options)
