"""Captions of the embedded world: a random subset of the attributes, in varying order and wording.

What a caption leaves out is decided by the seed when the picture is generated; preservation is measured on exactly that.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from spf.pocket.world import ATTRIBUTES, TARGETS, Portrait

OPENINGS = ("a portrait of a person", "a person", "portrait of a person", "a drawing of a person")
_GROUPS = ("hair", "skin", "clothes", "glasses", "expression", "background")


def base_caption(portrait: Portrait, rng: random.Random, keep: float = 0.55, keep_hidden: float = 0.0) -> str:
    """A caption naming each attribute with probability `keep`, those that its targets hide with `keep_hidden`."""
    hidden = portrait.hidden
    named = set()
    for name in ATTRIBUTES:
        share = keep_hidden if name in hidden else keep
        if share and rng.random() < share:  # a share of 0 draws nothing, so that other captions do not change with it
            named.add(name)
    return describe(portrait, named, rng)


def describe(portrait: Portrait, named: Collection[str], rng: random.Random) -> str:
    """A caption that names exactly the given attributes of a portrait, in an order drawn from `rng`."""
    clauses = [clause for group in _GROUPS if (clause := _CLAUSES[group](portrait, named, rng))]
    rng.shuffle(clauses)
    return ", ".join([rng.choice(OPENINGS), *clauses])


def target_caption(portrait: Portrait, rng: random.Random) -> str:
    """The words for a portrait's target attribute. Raises KeyError for a portrait without target."""
    return rng.choice(TARGETS[portrait.target].phrases)


def _hair(p: Portrait, named: Collection[str], rng: random.Random) -> str:
    color = f"{p.hair_color} " if "hair_color" in named else ""
    if "hair_style" not in named:
        return f"with {color}hair" if color else ""
    noun = {
        "short": f"short {color}hair", "long": f"long {color}hair", "curly": f"curly {color}hair",
        "bob": f"a {color}bob haircut", "bun": f"{color}hair in a bun", "afro": f"{_a(color + 'afro')}",
        "dreadlocks": f"{color}dreadlocks", "pixie": f"a {color}pixie cut", "quiff": f"a {color}quiff",
    }[p.hair_style]
    return f"with {noun}"


def _skin(p: Portrait, named: Collection[str], rng: random.Random) -> str:
    return f"with {p.skin_tone} skin" if "skin_tone" in named else ""


def _clothes(p: Portrait, named: Collection[str], rng: random.Random) -> str:
    color = f"{p.clothing_color} " if "clothing_color" in named else ""
    verb = rng.choice(("wearing", "in"))
    if "clothing" not in named:
        return f"{verb} {color}clothes" if color else ""
    noun = {"t-shirt": "t-shirt", "v-neck": "v-neck shirt", "hoodie": "hoodie", "sweater": "sweater"}.get(p.clothing)
    return f"{verb} {_a(color + noun)}" if noun else f"{verb} {color}overalls"


def _glasses(p: Portrait, named: Collection[str], rng: random.Random) -> str:
    if "glasses" not in named:
        return ""
    return "without glasses" if p.glasses == "none" else f"wearing {p.glasses}"


def _expression(p: Portrait, named: Collection[str], rng: random.Random) -> str:
    if "expression" not in named:
        return ""
    return rng.choice((p.expression, f"with a {p.expression} face", f"looking {p.expression}"))


def _background(p: Portrait, named: Collection[str], rng: random.Random) -> str:
    color = f"{p.background_color} " if "background_color" in named else ""
    pattern = f"{p.background_pattern} " if "background_pattern" in named else ""
    if not color and not pattern:
        return ""
    if p.background_pattern == "curtain" and pattern:
        words = f"{color}curtain background"
    else:
        words = f"{pattern}{color}background"
    return f"{rng.choice(('with', 'on', 'against'))} {_a(words)}"


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


_CLAUSES = {
    "hair": _hair, "skin": _skin, "clothes": _clothes,
    "glasses": _glasses, "expression": _expression, "background": _background,
}
