"""What can be chosen: models, customizations and their phrases, training budgets, example picture sets. No torch."""

from __future__ import annotations

from pathlib import Path

from spf import config, library
from spf.config import home
from spf.errors import InvalidInput
from spf.library import Customization
from spf.pocket.world import TARGETS
from spf.ui import strings

DEFAULT_MODEL = "pocket"


def outputs() -> Path:
    return home() / "outputs"


def models() -> list[tuple[str, str]]:
    """(title, name) of every model preset."""
    return [(config.model_preset(name).title, name) for name in config.model_presets()]


def customizations(model: str | None = None) -> dict[str, Customization]:
    """Those of one model, or all, by name."""
    return {name: one for name, one in library.customizations().items() if model in (None, one.card.model)}


def customization_choices(model: str) -> list[tuple[str, str]]:
    """(label, name); the empty name is the original model."""
    return [(strings.NO_CUSTOMIZATION, "")] + [
        (strings.CUSTOMIZATION_SHIPPED.format(name=name) if one.shipped else name, name)
        for name, one in customizations(model).items()]


def kept_choice(model: str, chosen: str | None) -> tuple[list[tuple[str, str]], str]:
    """Today's choices, a mix as a line of its own, and `chosen`, or the original model where it does not exist any more."""
    choices, found = customization_choices(model), customizations(model)
    if not chosen or any(name not in found for name in named(chosen)):
        return choices, ""
    if chosen not in found:
        choices.append((strings.CUSTOMIZATION_MIX.format(mix=chosen), chosen))
    return choices, chosen


def preselected(model: str) -> str:
    """A shipped customization, so that the first click shows a customized portrait; else any; else none."""
    found = customizations(model)
    shipped = [name for name, one in found.items() if one.shipped]
    return next(iter(shipped or found), "")


def phrases(customization: str) -> list[str]:
    """What a customization, or every one of a mix, was taught; nothing for an unknown name."""
    found = customizations()
    return list(dict.fromkeys(
        phrase for name in named(customization) if name in found for phrase in found[name].card.phrases))


def taught_phrases() -> set[str]:
    return {phrase for one in customizations().values() for phrase in one.card.phrases}


def free_name(wish: str) -> str:
    """`wish`, or `wish-2`, `wish-3`, ... where customizations of that name exist."""
    taken, number, name = customizations(), 1, wish
    while name in taken:
        number += 1
        name = f"{wish}-{number}"
    return name


def require_free(name: str) -> None:
    """Raises InvalidInput, with a free name, if a customization would be overwritten."""
    if name in customizations():
        raise InvalidInput("name", strings.NAME_TAKEN.format(name=name, free=free_name(name)))


def budgets() -> list[tuple[str, str]]:
    """(label, name) of every training preset, quick ones first."""
    names = sorted(config.training_presets(), key=lambda name: (name != "quick", name))
    return [(strings.BUDGETS.get(name, name), name) for name in names]


def methods() -> list[tuple[str, str]]:
    """(label, name) of every way to teach: SPF-Portrait, and what it is compared with."""
    return [(strings.METHODS[name], name) for name in config.RECIPES]


def example_sets() -> list[tuple[str, str]]:
    """(phrase, name) of every picture set that can be rendered here."""
    return [(target.phrase, name) for name, target in TARGETS.items()]


def named(customization: str) -> list[str]:
    """The names in a choice: several where it mixes some."""
    try:
        return list(config.mix_weights(customization)) if customization else []
    except ValueError:
        return [customization]
