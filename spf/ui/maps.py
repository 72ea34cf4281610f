"""Which map is looked at, how it is drawn over the portrait, and what is said about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from spf.generation.request import StepMaps
from spf.ui import overlay, strings
from spf.ui.session import Look, Shown

SFCM = "sfcm"


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture with a map over it, and the sentence that says what it is. `usable` is False where no map is on it."""

    picture: Image.Image | None
    caption: str
    usable: bool = True


def choices(shown: Shown | None) -> list[tuple[str, str]]:
    """(label, key) of every map that can be looked at."""
    found = [(strings.MAP_SFCM, SFCM), (strings.MAP_SOFT, "soft_map")]
    if shown is None or not shown.maps:
        return found
    for index, text in enumerate(shown.phrases[:len(shown.maps[0].phrase_maps)]):
        gamma = shown.gamma[index] if index < len(shown.gamma) else None
        label = strings.MAP_PHRASE if gamma is None or not shown.targets else strings.MAP_PHRASE_GAMMA
        found.append((label.format(text=text, gamma=gamma), f"phrase_maps:{index}"))
    for index, text in enumerate(shown.targets[:len(shown.maps[0].target_maps)]):
        found.append((strings.MAP_TARGET.format(text=text), f"target_maps:{index}"))
    return found


def available(shown: Shown | None, key: str) -> str:
    """`key` if that map exists, the SFCM otherwise: phrases come and go between generations."""
    return key if key in dict(map(reversed, choices(shown))) else SFCM


def draw(shown: Shown, look: Look) -> Drawn:
    """The customized portrait under the chosen map. What cannot be drawn is said in words, never shown as black."""
    if not shown.maps:
        return Drawn(shown.customized, strings.MAP_LATER if shown.live else strings.MAP_NONE, usable=False)
    key = available(shown, look.map)
    name = dict(map(reversed, choices(shown)))[key]
    values, caption = _chosen(shown, key, name, look)
    problem = overlay.trouble(values)
    if problem is not None:
        sentence = {"nan": strings.MAP_NAN, "empty": strings.MAP_EMPTY}[problem]
        return Drawn(shown.customized, sentence.format(caption=caption), usable=False)
    caption = strings.CAPTION_RANGE.format(caption=caption, low=values.min(), mean=values.mean(), high=values.max())
    if overlay.is_spread(values):
        caption = strings.CAPTION_SPREAD.format(caption=caption)
    picture = overlay.blend(shown.customized, values, look.opacity) if shown.customized else None
    return Drawn(picture, caption)


def _chosen(shown: Shown, key: str, name: str, look: Look) -> tuple[np.ndarray, str]:
    """The values (H, W) and what they are. While the portrait grows, always those of the newest step."""
    maps, steps = shown.maps, shown.num_inference_steps
    if look.mean and not shown.live and len(maps) > 1:
        caption = strings.CAPTION_MEAN.format(
            name=name, count=len(maps), first=maps[0].timestep, last=maps[-1].timestep)
        return np.mean([_values(one, key) for one in maps], axis=0), caption
    one = maps[-1] if shown.live else maps[min(max(look.step, 1), len(maps)) - 1]
    sentence = strings.CAPTION_ONE if len(maps) == 1 and not shown.live else strings.CAPTION_STEP
    return _values(one, key), sentence.format(name=name, step=one.step + 1, steps=steps, timestep=one.timestep)


def _values(maps: StepMaps, key: str) -> np.ndarray:
    name, _, index = key.partition(":")
    return getattr(maps, name)[int(index)] if index else getattr(maps, name)
