"""The page as a whole: header, tabs, API. Building it loads no model and writes no file."""

from __future__ import annotations

import gradio as gr

from spf.ui import api, generate_panel, markup, strings, teach_panel
from spf.ui.live import Service


def build(service: Service) -> gr.Blocks:
    """The page for `service`; launch it with `launch.launch`, which also carries theme and queue."""
    with gr.Blocks(title=strings.TITLE, fill_width=True, analytics_enabled=False, delete_cache=(3600, 86400)) as demo:
        api.add_api(service)  # first: its functions keep their names
        gr.HTML(markup.header())
        with gr.Tabs(elem_id="spf-tabs"):
            with gr.Tab(strings.TAB_PORTRAIT):
                portrait = generate_panel.add_panel(service)
            with gr.Tab(strings.TAB_TEACH, render_children=True):
                teach = teach_panel.add_panel(portrait)
        generate_panel.opened(portrait, demo)
        teach_panel.opened(teach, demo)
    return demo
