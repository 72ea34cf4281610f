"""What the Library tab does, as plain functions: cards, names, the trash, mixes, and files in and out."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path
from typing import Any

from spf import config, library
from spf.errors import InvalidInput
from spf.library import Customization
from spf.ui import catalog, strings, viewer


def table() -> str:
    """Every customization as a card, as HTML."""
    found = catalog.customizations()
    cards = "".join(_card(one) for one in found.values())
    return f'<div class="spf-cards">{cards}</div>' if cards else f'<p class="spf-quiet">{escape(strings.LIBRARY_NONE)}</p>'


def _card(one: Customization) -> str:
    card = one.card
    picture = thumbnail(card.name)
    image = (f'<img src="{escape(viewer.address(picture))}" alt="{escape(strings.LIBRARY_PICTURE.format(name=card.name))}">'
             if picture else f'<span class="spf-empty">{escape(strings.LIBRARY_NO_PICTURE)}</span>')
    origin = strings.LIBRARY_SHIPPED if one.shipped else card.created[:10]
    rows = {strings.LIBRARY_PHRASES: ", ".join(card.phrases), strings.MODEL: card.model, strings.LIBRARY_FROM: origin,
            **{strings.LIBRARY_FACTS.get(key, key): value for key, value in card.summary.items()}}
    facts = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in rows.items())
    return f'<article class="spf-card">{image}<div><h3>{escape(card.name)}</h3><dl>{facts}</dl></div></article>'


def thumbnail(name: str) -> Path | None:
    """The newest saved portrait that was made with a customization alone, if there is one."""
    marker = f'"customization": "{name}"'
    for path in sorted(catalog.outputs().glob("*/*/result.json"), reverse=True)[:200]:
        if marker in path.read_text(encoding="utf-8", errors="replace"):
            return path.with_name("customized.png")
    return None


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
