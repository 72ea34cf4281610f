"""Settings of the Portrait tab under a name: everything of the form but its texts and its seed. Plain functions."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from spf.config import Name, Schema, home, parse, saved_request
from spf.errors import InvalidInput
from spf.ui import strings
from spf.ui.generate_handlers import Form, renamed

_OWN = {"base_text": "a person", "target_texts": (), "target_weights": (), "seed": 0}  # what a preset says nothing of


class _Named(Schema):
    name: Name


def names() -> list[str]:
    return sorted(path.stem for path in _folder().glob("*.json"))


def save(name: str, form: Form) -> str:
    """Keep the settings of a form, in place of those that had the name; returns what to tell. Raises InvalidInput."""
    try:
        name = parse(_Named, {"name": (name or "").strip()}).name
    except InvalidInput as error:
        raise renamed(error, {"name": "settings_name"}) from None
    request = replace(form, base_text=_OWN["base_text"], targets=(), seed=0).request()
    _folder().mkdir(parents=True, exist_ok=True)
    staged = _folder() / f".{name}.partial"
    staged.write_text(json.dumps(request.model_dump(mode="json", exclude=set(_OWN))), encoding="utf-8")
    os.replace(staged, _path(name))
    return strings.PRESET_SAVED.format(name=name)


def use(name: str | None, form: Form) -> Form:
    """The form with its settings replaced. Raises InvalidInput for a name that is not there, and for a damaged file."""
    path = _known(name)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kept = Form.of_request(saved_request({**values, **_OWN}))
    except (OSError, ValueError, TypeError, InvalidInput):
        raise InvalidInput("settings", strings.PRESET_DAMAGED.format(name=name)) from None
    return replace(kept, base_text=form.base_text, targets=form.targets, seed=form.seed)


def delete(name: str | None) -> str:
    """Returns what to tell. Raises InvalidInput for a name that is not there."""
    _known(name).unlink(missing_ok=True)
    return strings.PRESET_DELETED.format(name=name)


def _folder() -> Path:
    return home() / "presets"


def _path(name: str) -> Path:
    return _folder() / f"{name}.json"


def _known(name: str | None) -> Path:
    if name not in names():
        raise InvalidInput("settings", strings.NO_CHOICE)
    return _path(name)
