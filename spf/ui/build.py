"""The page as a whole: header, tabs, API. Building it loads no model and writes no file."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from spf.ui import api, compare_panel, generate_panel, inspector, library_panel, markup, results_panel, strings, teach_panel
from spf.ui.live import Service

_HEADER_SCRIPT = Path(__file__).with_name("header.js")


def build(service: Service) -> gr.Blocks:
    """The page for `service`; launch it with `launch.launch`, which also carries theme and queue."""
    with gr.Blocks(title=strings.TITLE, fill_width=True, analytics_enabled=False, delete_cache=(3600, 86400)) as demo:
        api.add_api(service)  # first: its functions keep their names
        gr.HTML(html_template=markup.header(), js_on_load=_HEADER_SCRIPT.read_text(encoding="utf-8"), apply_default_css=False)
        with gr.Tabs(elem_id="spf-tabs"):
            with gr.Tab(strings.TAB_PORTRAIT):
                portrait = generate_panel.add_panel(service)
            with gr.Tab(strings.TAB_INSPECT) as tab:
                inspector.add_panel(portrait.session, tab)
            with gr.Tab(strings.TAB_TEACH):
                teach = teach_panel.add_panel(portrait)
            with gr.Tab(strings.TAB_LIBRARY) as tab:
                library_panel.add_panel(portrait, tab)
            with gr.Tab(strings.TAB_COMPARE) as tab:
                compare_panel.add_panel(service, portrait, tab)
            with gr.Tab(strings.TAB_RESULTS) as tab:
                results_panel.add_panel(tab)
        generate_panel.opened(portrait, demo)
        teach_panel.opened(teach, demo)
    return demo
