"""What can be seen in the embedded picture world: every attribute, its values, and how each is said in words.

Base attributes are what the embedded denoiser learns. Target attributes are held out of its training and exist only
for customization; the embedded autoencoder and CLIP know both, as the public ones know both.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

# value -> colour. Hair, clothing and background keep apart in lightness, so that equal words stay readable side by side.
HAIR_COLORS = {
    "black": "#2C1B18", "brown": "#724133", "blonde": "#E0BC68", "red": "#C93305",
    "gray": "#B9B6B4", "pink": "#F59797", "blue": "#3E6FB5",
}
SKIN_TONES = {"pale": "#FFDBB4", "tan": "#E0A86C", "brown": "#AE5D29", "dark": "#614335"}
CLOTHING_COLORS = {
    "red": "#E0342F", "orange": "#F08A24", "yellow": "#F4D03F", "green": "#3DA35D",
    "blue": "#3F7FD8", "purple": "#7D4CC2", "white": "#F7F7F7", "black": "#262E33",
}
BACKGROUND_COLORS = {
    "red": "#D9605B", "orange": "#F2A65A", "yellow": "#F3E08B", "green": "#86C59A",
    "blue": "#7FB2E5", "purple": "#A98BD1", "pink": "#F4B6CF", "gray": "#A9AEB3",
}
# value -> python_avatars member name
HAIR_STYLES = {
    "short": "SHORT_FLAT", "bob": "BOB", "bun": "BUN", "curly": "CURLY", "afro": "FRO",
    "long": "STRAIGHT_1", "dreadlocks": "DREADS", "pixie": "PIXIE", "quiff": "QUIFF",
}
CLOTHING = {
    "t-shirt": "SHIRT_CREW_NECK", "v-neck": "SHIRT_V_NECK", "hoodie": "HOODIE",
    "overalls": "OVERALL", "sweater": "COLLAR_SWEATER",
}
GLASSES = {"none": "NONE", "glasses": "PRESCRIPTION_2", "sunglasses": "SUNGLASSES"}
# value -> (mouth, eyes, eyebrows)
EXPRESSIONS = {
    "smiling": ("SMILE", "DEFAULT", "DEFAULT_NATURAL"),
    "serious": ("SERIOUS", "DEFAULT", "FLAT_NATURAL"),
    "sad": ("SAD", "DEFAULT", "SAD_CONCERNED_NATURAL"),
    "surprised": ("DISBELIEF", "SURPRISED", "RAISED_EXCITED_NATURAL"),
}
PATTERNS = ("plain", "striped", "curtain")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "hair_style": tuple(HAIR_STYLES),
    "hair_color": tuple(HAIR_COLORS),
    "skin_tone": tuple(SKIN_TONES),
    "clothing": tuple(CLOTHING),
    "clothing_color": tuple(CLOTHING_COLORS),
    "glasses": tuple(GLASSES),
    "expression": tuple(EXPRESSIONS),
    "background_color": tuple(BACKGROUND_COLORS),
    "background_pattern": PATTERNS,
}


@dataclass(frozen=True)
class Target:
    """A held-out attribute: the words for it, what it changes in the drawing, and the base attributes it hides."""

    name: str
    phrases: tuple[str, ...]
    parts: dict[str, str] = field(default_factory=dict)  # python_avatars slot -> "EnumClass.MEMBER" or a colour
    hides: frozenset[str] = frozenset()
    effect: str = ""  # "freckles" is drawn on the face; "pencil" and "neon" redraw the finished picture

    @property
    def phrase(self) -> str:
        return self.phrases[0]


_HAIR = frozenset({"hair_style", "hair_color"})
_STYLE_HIDES = frozenset({"hair_color", "skin_tone", "clothing_color", "background_color"})

TARGETS: dict[str, Target] = {target.name: target for target in (
    Target("winter-hat", ("a winter hat", "a warm winter hat"),
           {"top": "HatType.WINTER_HAT_3", "hat_color": "#B3202C"}, _HAIR),
    Target("turban", ("a turban", "a wrapped turban"), {"top": "HatType.TURBAN", "hat_color": "#1F8A8A"}, _HAIR),
    Target("eyepatch", ("an eyepatch", "a black eyepatch"),
           {"accessory": "AccessoryType.EYEPATCH"}, frozenset({"glasses"})),
    Target("heart-eyes", ("heart-shaped eyes", "hearts for eyes"),
           {"eyes": "EyeType.HEART"}, frozenset({"glasses", "expression"})),
    Target("full-beard", ("a full beard", "a big full beard"),
           {"facial_hair": "FacialHairType.BEARD_MAGESTIC"}, frozenset({"expression"})),
    Target("mohawk", ("a mohawk", "a mohawk hairstyle"), {"top": "HairType.MOHAWK"}, frozenset({"hair_style"})),
    Target("astronaut-suit", ("an astronaut suit", "a white astronaut suit"),
           {"clothing": "ClothingType.ASTRONAUT_SUIT"}, frozenset({"clothing", "clothing_color"})),
    Target("freckles", ("freckled skin", "freckles"), effect="freckles"),
    Target("pencil-sketch", ("pencil sketch style", "in pencil sketch style"), hides=_STYLE_HIDES, effect="pencil"),
    Target("neon", ("neon style", "in neon style"), hides=_STYLE_HIDES, effect="neon"),
)}


@dataclass(frozen=True)
class Portrait:
    """Everything that determines one picture. `scale`, `dx`, `dy` are in units of the picture's width."""

    hair_style: str
    hair_color: str
    skin_tone: str
    clothing: str
    clothing_color: str
    glasses: str
    expression: str
    background_color: str
    background_pattern: str
    scale: float = 1.0
    dx: float = 0.0
    dy: float = 0.0
    mirrored: bool = False
    targets: tuple[str, ...] = ()  # held-out attributes; none hides what another one does

    @property
    def target(self) -> str | None:
        """The first of them, where a picture has one at most."""
        return self.targets[0] if self.targets else None

    @property
    def hidden(self) -> frozenset[str]:
        """Base attributes that cannot be seen."""
        return frozenset().union(*(TARGETS[name].hides for name in self.targets))

    def value(self, attribute: str) -> str:
        return getattr(self, attribute)


def sample_portrait(rng: random.Random, target: str | None = None) -> Portrait:
    """A portrait with every attribute drawn uniformly (glasses: half of the people wear none)."""
    values = {name: rng.choice(options) for name, options in ATTRIBUTES.items()}
    values["glasses"] = rng.choice(("none", "none", "glasses", "sunglasses"))
    while values["hair_color"] == values["background_color"]:  # hair must stay visible against the wall
        values["hair_color"] = rng.choice(ATTRIBUTES["hair_color"])
    if target is not None and "glasses" in TARGETS[target].hides:
        values["glasses"] = "none"
    return Portrait(
        **values,
        scale=rng.uniform(0.86, 1.0),
        dx=rng.uniform(-0.05, 0.05),
        dy=rng.uniform(0.0, 0.04),
        mirrored=rng.random() < 0.5,
        targets=() if target is None else (target,),
    )


def companions(portrait: Portrait) -> list[str]:
    """The held-out attributes that can be seen beside those that a portrait shows already."""
    shown = [TARGETS[name] for name in portrait.targets]
    return [name for name, other in TARGETS.items() if not any(
        one is other or one.hides & other.hides or one.parts.keys() & other.parts.keys() or (one.effect and other.effect)
        for one in shown)]


def joined_by(portrait: Portrait, rng: random.Random, most: int) -> Portrait:
    """The portrait with further held-out attributes, drawn at random: in all between as many as it has and `most`."""
    for _ in range(rng.randint(1, most) - 1):
        if not (found := companions(portrait)):
            break
        portrait = replace(portrait, targets=(*portrait.targets, rng.choice(found)))
    return replace(portrait, glasses="none") if "glasses" in portrait.hidden else portrait
