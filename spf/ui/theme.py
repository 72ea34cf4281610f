"""How the page looks: a quiet gray ground, pictures first, one accent colour, system fonts, light and dark."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

CSS = Path(__file__).with_name("studio.css")
_FONT = ("ui-sans-serif", "system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")


def theme() -> gr.themes.Base:
    """Gradio's plain theme with one accent, thin borders and no shadows."""
    base = gr.themes.Base(
        primary_hue=gr.themes.colors.teal, secondary_hue=gr.themes.colors.teal, neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_md, spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md, font=_FONT, font_mono=_MONO)
    return base.set(
        body_background_fill="*neutral_50", body_background_fill_dark="*neutral_950",
        block_background_fill="transparent", block_background_fill_dark="transparent",
        block_border_width="0px", block_border_width_dark="0px", block_shadow="none", block_padding="0px",
        block_label_background_fill="transparent", block_label_background_fill_dark="transparent",
        block_title_text_weight="600", block_title_text_size="*text_sm",
        block_title_text_color="*body_text_color", block_title_text_color_dark="*body_text_color",
        block_info_text_size="12px",
        panel_background_fill="transparent", panel_background_fill_dark="transparent", panel_border_width="0px",
        input_background_fill="white", input_background_fill_dark="*neutral_900",
        input_border_color="*neutral_300", input_border_color_dark="*neutral_700", input_border_width="1px",
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700", button_primary_background_fill_hover_dark="*primary_800",
        button_primary_border_color="*primary_700", button_primary_border_color_dark="*primary_700",
        button_secondary_background_fill="*neutral_200", button_secondary_background_fill_hover="*neutral_300",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_400",
        button_primary_text_color="white", button_primary_text_color_dark="white",
        slider_color="*primary_600", slider_color_dark="*primary_500")


def css() -> str:
    return CSS.read_text(encoding="utf-8")
