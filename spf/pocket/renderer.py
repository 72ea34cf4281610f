"""Draws portraits of the embedded world: python_avatars gives the SVG, resvg rasterises it, and the truth is known.

Part masks come from drawing twice: a pixel belongs to a part if repainting only that part changes it.
"""

from __future__ import annotations

import io
import random
import re
from dataclasses import replace
from functools import lru_cache

import numpy as np
import python_avatars as pa
import resvg_py
from PIL import Image, ImageFilter, ImageOps

from spf.pocket import world
from spf.pocket.world import TARGETS, Portrait

SIZE = 128  # pixels, width and height of a picture
PARTS = ("hair", "skin", "clothing", "glasses", "background", "target")

_AVATAR_WIDTH, _AVATAR_HEIGHT = 264, 280  # python_avatars' own drawing units
_MASK_THRESHOLD = 24  # of 255, summed over channels: below it lies only antialiasing
# Freckle centres in drawing units, on both cheeks and the nose bridge of the fixed face.
_FRECKLES = tuple(
    (x + side * dx, y + dy)
    for x, y, side in ((108, 128, 1), (156, 128, -1))
    for dx, dy in ((0, 0), (8, 5), (-6, 7), (2, 10), (12, -1), (-2, -6))
)


def draw(portrait: Portrait, size: int = SIZE) -> Image.Image:
    """The picture of a portrait, RGB, `size` x `size`. The same portrait always gives the same bytes."""
    png = resvg_py.svg_to_bytes(svg_string=_scene(portrait), width=size, height=size, skip_system_fonts=True)
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    for name in portrait.targets:
        picture = _EFFECTS.get(TARGETS[name].effect, lambda image: image)(picture)
    return picture


def part_mask(portrait: Portrait, part: str, size: int = SIZE) -> np.ndarray:
    """Where `part` is visible: (size, size) bool. `target` is where the target makes the picture differ."""
    if part == "target":
        other = replace(portrait, targets=())
    else:
        portrait = _without_redrawing(portrait)
        other = _repainted(portrait, part)
    difference = np.abs(np.asarray(draw(portrait, size), np.int16) - np.asarray(draw(other, size), np.int16))
    return difference.sum(axis=2) > _MASK_THRESHOLD


@lru_cache(maxsize=16)
def target_region(target: str, size: int = SIZE, count: int = 128, share: float = 0.02) -> np.ndarray:
    """Pixels that `target` changes in at least `share` of `count` random portraits: (size, size) bool, read-only.

    This is where a customized portrait may differ from its original; elsewhere every difference is pollution.
    """
    rng = random.Random(f"region/{target}")
    hits = sum(
        part_mask(world.sample_portrait(rng, target), "target", size).astype(np.int32) for _ in range(count)
    )
    region = hits >= max(1, share * count)
    region.setflags(write=False)
    return region


def _without_redrawing(portrait: Portrait) -> Portrait:
    """The same person before a style target redraws the picture: parts are then told apart by colour."""
    return replace(portrait, targets=tuple(name for name in portrait.targets if TARGETS[name].effect not in _EFFECTS))


def _repainted(portrait: Portrait, part: str) -> Portrait:
    """The same portrait with only `part` in another colour (glasses: taken off)."""
    if part == "glasses":
        return replace(portrait, glasses="none")
    attribute, palette = {
        "hair": ("hair_color", world.HAIR_COLORS),
        "skin": ("skin_tone", world.SKIN_TONES),
        "clothing": ("clothing_color", world.CLOTHING_COLORS),
        "background": ("background_color", world.BACKGROUND_COLORS),
    }[part]
    current = _luminance(palette[portrait.value(attribute)])
    farthest = max(palette, key=lambda name: abs(_luminance(palette[name]) - current))
    return replace(portrait, **{attribute: farthest})


def _luminance(color: str) -> float:
    red, green, blue = (int(color[i:i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _scene(portrait: Portrait) -> str:
    """One SVG of unit width 264: the wall, then the person, scaled and placed so that the bust reaches the bottom."""
    unit = _AVATAR_WIDTH
    width, height = portrait.scale * _AVATAR_WIDTH, portrait.scale * _AVATAR_HEIGHT
    left = (unit - width) / 2 + portrait.dx * unit
    top = unit - height + portrait.dy * unit + 0.06 * unit
    mirror = f"translate({unit},0) scale(-1,1)" if portrait.mirrored else ""
    attributes, drawing = re.search(r"<svg([^>]*)>(.*)</svg>", _person(portrait), re.DOTALL).groups()
    namespaces = " ".join(re.findall(r'xmlns(?::\w+)?="[^"]*"', attributes))
    placed = (
        f'<svg {namespaces} x="{left:.3f}" y="{top:.3f}" width="{width:.3f}" height="{height:.3f}"'
        f' viewBox="0 0 {_AVATAR_WIDTH} {_AVATAR_HEIGHT}">{drawing}</svg>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {unit} {unit}">'
        f'{_wall(portrait)}<g transform="{mirror}">{placed}</g></svg>'
    )


def _wall(portrait: Portrait) -> str:
    color = world.BACKGROUND_COLORS[portrait.background_color]
    shapes = [f'<rect width="{_AVATAR_WIDTH}" height="{_AVATAR_WIDTH}" fill="{color}"/>']
    if portrait.background_pattern == "striped":
        shapes += [f'<rect x="{x}" width="22" height="264" fill="#FFFFFF" fill-opacity="0.38"/>' for x in range(11, 264, 44)]
    elif portrait.background_pattern == "curtain":
        for x in range(0, 264, 33):
            shapes.append(f'<path d="M{x},0 C{x + 14},90 {x - 8},180 {x},264 L{x + 14},264 C{x + 8},180 {x + 26},90 {x + 14},0 Z"'
                          ' fill="#000000" fill-opacity="0.22"/>')
        shapes.append('<rect width="264" height="14" fill="#000000" fill-opacity="0.45"/>')
    return "".join(shapes)


def _person(portrait: Portrait) -> str:
    mouth, eyes, eyebrows = world.EXPRESSIONS[portrait.expression]
    parts = dict(
        style=pa.AvatarStyle.TRANSPARENT,
        top=pa.HairType[world.HAIR_STYLES[portrait.hair_style]],
        hair_color=world.HAIR_COLORS[portrait.hair_color],
        facial_hair=pa.FacialHairType.NONE,
        facial_hair_color=world.HAIR_COLORS[portrait.hair_color],
        skin_color=world.SKIN_TONES[portrait.skin_tone],
        clothing=pa.ClothingType[world.CLOTHING[portrait.clothing]],
        clothing_color=world.CLOTHING_COLORS[portrait.clothing_color],
        accessory=pa.AccessoryType[world.GLASSES[portrait.glasses]],
        mouth=pa.MouthType[mouth],
        eyes=pa.EyeType[eyes],
        eyebrows=pa.EyebrowType[eyebrows],
        nose=pa.NoseType.DEFAULT,
    )
    targets = [TARGETS[name] for name in portrait.targets]
    for target in targets:
        parts.update({slot: _member(value) for slot, value in target.parts.items()})
    svg = pa.Avatar(**parts).render()
    if any(target.effect == "freckles" for target in targets):
        svg = _with_freckles(svg, portrait.skin_tone)
    return svg


def _member(value: str):
    if value.startswith("#"):
        return value
    enum, member = value.split(".")
    return getattr(pa, enum)[member]


def _with_freckles(svg: str, skin_tone: str) -> str:
    color = "#7A3B1D" if skin_tone in ("pale", "tan") else "#2E1408"
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="2.7" fill="{color}" fill-opacity="0.8"/>' for x, y in _FRECKLES)
    face = re.search(r'<g[^>]*id="transparent_Face"', svg).start()
    return svg[:face] + f"<g>{dots}</g>" + svg[face:]


def _pencil(picture: Image.Image) -> Image.Image:
    """Gray strokes along the edges, light shading inside, on paper."""
    gray = ImageOps.grayscale(picture)
    inverted = ImageOps.invert(gray).filter(ImageFilter.GaussianBlur(2.2))
    base, blurred = np.asarray(gray, np.float32), np.asarray(inverted, np.float32)
    dodge = np.clip(base * 255.0 / np.maximum(255.0 - blurred, 1.0), 0, 255)
    sketch = 0.75 * dodge + 0.25 * base
    return Image.fromarray(sketch.round().astype(np.uint8)).convert("RGB")


def _neon(picture: Image.Image) -> Image.Image:
    """Glowing contours in the picture's own hues on a dark ground."""
    pixels = np.asarray(picture, np.float32)
    edges = np.zeros(pixels.shape[:2], np.float32)
    for axis in (0, 1):
        edges += np.abs(np.gradient(pixels, axis=axis)).sum(axis=2)
    glow = np.asarray(Image.fromarray(np.clip(edges, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.0)))
    strength = np.clip(glow[..., None] / 90.0, 0, 1)
    ground = pixels * 0.18 + np.array([14, 4, 34], np.float32)
    light = np.clip(pixels * 0.5 + np.array([40, 190, 230], np.float32), 0, 255)
    return Image.fromarray((ground * (1 - strength) + light * strength).round().astype(np.uint8))


_EFFECTS = {"pencil": _pencil, "neon": _neon}
