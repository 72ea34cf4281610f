"""Small pieces of HTML. Whatever came from a person or a file is escaped here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image

from spf.errors import DataError, SpfError
from spf.generation.request import GenerationResult
from spf.ui import overlay, strings


def say(error: SpfError) -> str:
    """The error's sentence with the label of the page in place of the schema's field name."""
    text = str(error)
    head, colon, rest = text.partition(": ")
    label = strings.FIELDS.get(_field(error))
    return f"{label}: {rest}" if colon and label else text[:1].upper() + text[1:]


def problem(error: SpfError | str) -> str:
    """A refusal or failure; what DataError lists becomes a list."""
    text, lines = (error, []) if isinstance(error, str) else (say(error), [])
    if isinstance(error, DataError):
        text, lines = text.split("\n  ")[0], error.problems
    return _notice("spf-problem", text, lines, role="alert", field="" if isinstance(error, str) else _field(error))


def _field(error: SpfError) -> str:
    """The schema's field that an error's sentence begins with; empty for one that the page has no label for."""
    head = str(error).partition(": ")[0].split(".")[0].strip()
    return head if head in strings.FIELDS else ""


def report(text: str) -> str:
    """A report of several lines, the first of which sums up; nothing for an empty one."""
    first, *lines = [line.strip() for line in text.splitlines()] or [""]
    return _notice("spf-report", first, lines) if text else ""


def _notice(kind: str, text: str, lines: list[str], role: str = "status", field: str = "") -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    below = f"<ul>{items}</ul>" if items else ""
    about = f' data-field="{escape(field)}"' if field else ""
    return f'<div class="spf-notice {kind}" role="{role}"{about}><p>{escape(text)}</p>{below}</div>'


def quiet(text: str) -> str:
    """A line of secondary text that screen readers hear when it changes."""
    return f'<p class="spf-quiet" aria-live="polite">{escape(text)}</p>' if text else ""


def caption(text: str, usable: bool = True) -> str:
    """What the overlay shows; set apart as a warning where no map is on the picture."""
    return f'<p class="spf-caption{"" if usable else " spf-warning"}" aria-live="polite">{escape(text)}</p>'


def metrics(result: GenerationResult) -> str:
    """Preservation, seconds and seed in one line; each number explains itself under the pointer."""
    parts = [f'<span title="{escape(strings.METRICS[name][1])}">{escape(text)}</span>'
             for name, text in scores(result.metrics).items()]
    seconds = {name: result.seconds.get(name, 0.0) for name in ("original", "customized", "maps")}
    parts.append(escape(strings.SECONDS.format(total=sum(seconds.values()), **seconds)))
    parts.append(escape(strings.SEED_USED.format(seed=result.request.seed)))
    return f'<p class="spf-quiet spf-metrics">{" · ".join(parts)}</p>'


def scores(metrics: Mapping[str, float | None]) -> dict[str, str]:
    """Each preservation score of a pair that there is, in words, by its name."""
    return {name: _number(label, metrics[name]) for name, (label, _) in strings.METRICS.items() if name in metrics}


def _number(label: str, value: float | None) -> str:
    return label.format(value) if value is not None and value == value else f"{label.partition('{')[0]}{strings.METRIC_UNDEFINED}"


def legend() -> str:
    """The colour scale with numbers."""
    ticks = "".join(f"<span>{value}</span>" for value in ("0", "0.25", "0.5", "0.75", "1"))
    image = f'<img src="{overlay.data_uri(overlay.legend())}" alt="{escape(strings.LEGEND_ALT)}">'
    label = f'<span class="spf-label">{escape(strings.LEGEND)}</span>'
    return f'<div class="spf-legend">{label}{image}<div>{ticks}</div></div>'


def progress(share: float, headline: str, detail: str) -> str:
    """A headline, a bar and a line below it."""
    percent = round(100 * min(max(share, 0.0), 1.0))
    bar = (f'<div class="spf-bar" role="progressbar" aria-label="{escape(headline)}" aria-valuenow="{percent}" '
           f'aria-valuemin="0" aria-valuemax="100"><span style="width:{percent}%"></span></div>')
    return f'<div class="spf-progress"><h3>{escape(headline)}</h3>{bar}{quiet(detail)}</div>'


def figures(pictures: Sequence[tuple[str, Image.Image]]) -> str:
    """Pictures in a row, each with its title; nothing without any."""
    cells = "".join(f'<figure><img src="{overlay.data_uri(picture)}" alt="{escape(title)}"><figcaption>{escape(title)}'
                    "</figcaption></figure>" for title, picture in pictures)
    return f'<div class="spf-figures">{cells}</div>' if cells else ""


def heading(text: str, hint: str = "") -> str:
    """A small heading, with a hint in secondary colour behind it."""
    more = f'<span class="spf-hint">{escape(hint)}</span>' if hint else ""
    return f'<h3 class="spf-heading">{escape(text)}{more}</h3>'


def steps(texts: list[str]) -> str:
    """What will happen, as a numbered list."""
    return f'<ol class="spf-steps">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ol>'


def header() -> str:
    """Title, theme, the sheet of keyboard shortcuts, and what a first visitor may try."""
    keys = "".join(f"<dt>{''.join(f'<kbd>{escape(key)}</kbd>' for key in pressed)}</dt><dd>{escape(does)}</dd>"
                   for pressed, does in strings.KEYS)
    guide = "".join(f"<li>{escape(step)}</li>" for step in strings.GUIDE)
    tabs = escape(json.dumps(strings.TABS))
    return (f'<header class="spf-header" data-tabs="{tabs}"><h1>{escape(strings.TITLE)}</h1><p>{escape(strings.TAGLINE)}</p>'
            f'{_action("keys", strings.KEYBOARD)}{_action("theme", strings.TOGGLE_THEME)}</header>'
            f'<dialog class="spf-keys" aria-label="{escape(strings.KEYBOARD)}"><h2>{escape(strings.KEYBOARD)}</h2>'
            f'<dl>{keys}</dl>{_action("close", strings.CLOSE)}</dialog>'
            f'<section class="spf-guide" hidden><h2>{escape(strings.GUIDE_TITLE)}</h2><ol>{guide}</ol>'
            f'{_action("try", strings.GUIDE_TRY)}{_action("done", strings.GUIDE_DONE)}</section>')


def _action(name: str, label: str) -> str:
    return f'<button type="button" data-act="{name}">{escape(label)}</button>'
