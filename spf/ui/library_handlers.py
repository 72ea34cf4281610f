"""What the Library tab does, as plain functions: cards, names, the trash, mixes, and files in and out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from spf import config, library
from spf.errors import InvalidInput, SpfError
from spf.library import Customization
from spf.ui import catalog, markup, strings, viewer

LOOKED_THROUGH = 200  # results, newest first, for one that shows a customization or a model


def table() -> str:
    """Every customization as a card, as HTML."""
    cards = "".join(map(_customization, catalog.customizations().values()))
    if not cards:
        return f'<p class="spf-quiet">{escape(strings.LIBRARY_NONE)}</p>'
    return markup.heading(strings.LIBRARY_CUSTOMIZATIONS) + f'<div class="spf-cards">{cards}</div>'


def models() -> str:
    """Every model as a card, as HTML: what it is, and whether it is here or how to get it. The first call imports torch."""
    cards = "".join(map(_model, config.model_presets()))
    return markup.heading(strings.LIBRARY_MODELS) + f'<div class="spf-cards">{cards}</div>'


def _customization(one: Customization) -> str:
    card, newest = one.card, _newest("customization", one.card.name)
    origin = strings.LIBRARY_SHIPPED if one.shipped else card.created[:10]
    rows = {strings.LIBRARY_PHRASES: ", ".join(card.phrases), strings.MODEL: card.model,
            **({strings.LIBRARY_SCORES: _scores(newest)} if newest else {}), strings.LIBRARY_FROM: origin,
            **_facts(card.summary)}
    return _card(card.name, newest and newest / "customized.png", rows)


def _facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """How it was taught, in words; without steps that another run made, and with devices only where there were several."""
    alone = summary.get("processes", 1) == 1
    told = {key: value for key, value in summary.items()
            if value != 0 and not (alone and (key == "processes" or key.endswith("_per_device")))}
    if "recipe" in told:
        told["recipe"] = strings.METHODS.get(told["recipe"], told["recipe"])
    return {strings.LIBRARY_FACTS.get(key, key): value for key, value in told.items()}


def _model(name: str) -> str:
    from spf.backbones import source

    try:
        preset = config.model_preset(name)
        title, state = preset.title, strings.LIBRARY_MODEL_HERE
        source.require_model(preset)
    except SpfError as error:
        state = markup.say(error)
        if isinstance(error, InvalidInput):  # of the preset's own file: nothing else is known of it
            return _card(name, None, {strings.LIBRARY_MODEL_STATE: state})
    newest = _newest("model", name)
    return _card(title, newest and newest / "original.png", {
        strings.LIBRARY_MODEL_NAME: name, strings.LIBRARY_MODEL_FAMILY: strings.LIBRARY_MODEL_FAMILIES[preset.family],
        strings.LIBRARY_MODEL_SIDE: strings.LIBRARY_MODEL_PIXELS.format(side=preset.resolution),
        strings.LIBRARY_MODEL_STATE: state})


def _card(title: str, picture: Path | None, rows: Mapping[str, Any]) -> str:
    image = (f'<img src="{escape(viewer.address(picture))}" alt="{escape(strings.LIBRARY_PICTURE.format(name=title))}">'
             if picture else f'<span class="spf-empty">{escape(strings.LIBRARY_NO_PICTURE)}</span>')
    facts = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in rows.items())
    return f'<article class="spf-card">{image}<div><h3>{escape(title)}</h3><dl>{facts}</dl></div></article>'


def _newest(field: str, name: str) -> Path | None:
    """The folder of the newest saved result whose `field` is `name`, if there is one."""
    marker = f'"{field}": "{name}"'
    for path in sorted(catalog.outputs().glob("*/*/result.json"), reverse=True)[:LOOKED_THROUGH]:
        if marker in path.read_text(encoding="utf-8", errors="replace"):
            return path.parent
    return None


def _scores(folder: Path) -> str:
    """The preservation scores of a saved result in one line."""
    try:
        scores = json.loads((folder / "result.json").read_text(encoding="utf-8"))["metrics"]
        return ", ".join(markup.scores(scores).values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return strings.METRIC_UNDEFINED


def choices() -> list[str]:
    """Names of the customizations that can be changed: the user's own."""
    return [name for name, one in catalog.customizations().items() if not one.shipped]


def rename(name: str | None, wish: str | None) -> str:
    """Returns what to tell. Raises SpfError."""
    renamed = library.rename(_own(name), (wish or "").strip())
    return strings.LIBRARY_RENAMED.format(name=name, wish=renamed.card.name)


def delete(name: str | None, used: str | None = None) -> tuple[str, str]:
    """What to tell, and what `undo` takes. `used`: the choice on the Portrait tab. Raises SpfError."""
    trashed = library.discard(_own(name))
    words = strings.LIBRARY_DELETED_USED if name in catalog.named(used or "") else strings.LIBRARY_DELETED
    return words.format(name=name), str(trashed)


def undo(trashed: str) -> str:
    """Bring back what was deleted last. Raises SpfError."""
    return strings.LIBRARY_RESTORED.format(name=library.restore(Path(trashed)))


def mix(rows: Any) -> str:
    """The choice for the Portrait tab out of (name, weight) rows; rows without a weight are left out. Raises InvalidInput."""
    weights = {}
    for name, weight in rows or []:
        if weight in (None, "", 0, "0"):
            continue
        try:
            weights[str(name)] = float(weight)
        except ValueError:
            raise InvalidInput("customization", strings.NOT_A_NUMBER.format(example=0.7, value=repr(weight)[:40])) from None
    if not weights:
        raise InvalidInput("customization", strings.MIX_NONE)
    text = config.mix_text(weights)
    return config.parse(config.GenerationRequest, {"customization": text, "base_text": "a person"}).customization


def mix_rows(model: str) -> list[list[Any]]:
    """One row for every customization of a model, all without a weight."""
    return [[name, None] for name in catalog.customizations(model)]


def export(name: str | None, kind: str) -> Path:
    """Write a customization for other tools; returns the file. Raises SpfError."""
    from spf.export import outgoing

    folder = catalog.outputs() / "exports"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{_chosen(name)}-{kind}-{time.strftime('%Y%m%d-%H%M%S')}.safetensors"
    outgoing.export(outgoing.Export(_chosen(name), kind, target))
    return target


def bring_in(path: str | None, name: str | None) -> str:
    """Import a zip or delta file; returns what to tell. Raises SpfError."""
    from spf.export import incoming

    if not path:
        raise InvalidInput("path", strings.NO_CHOICE)
    found = incoming.import_customization(Path(path), (name or "").strip() or None)
    return strings.LIBRARY_IMPORTED.format(name=found.card.name)


def _chosen(name: str | None) -> str:
    if not name:
        raise InvalidInput("customization", strings.NO_CHOICE)
    return name


def _own(name: str | None) -> str:
    if not name and not choices():
        raise InvalidInput("customization", strings.LIBRARY_NONE_OWN)
    return _chosen(name)
