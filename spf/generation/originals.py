"""Originals that were drawn already: a swapped phrase needs them again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Original:
    """What the reference path came to."""

    picture: Image.Image
    first: Tensor  # (1, C, h, w) on the CPU: its unguided prediction where both paths part
    seen: Tensor  # (1, D) on the CPU: the picture as CLIP sees it
    latents: tuple[Tensor, ...] = ()  # (1, C, h, w) on the CPU after each step, where the original is held; else none
    apart: int = 0  # the step at which both paths part

    @property
    def latent_bytes(self) -> int:
        return sum(latent.nbytes for latent in (self.first, *self.latents))


class Originals:
    """The last ones by what they depend on: at most `pictures` of them, and of those that fit into `latent_bytes`."""

    def __init__(self, pictures: int, latent_bytes: int):
        self.pictures, self.latent_bytes = pictures, latent_bytes
        self._kept: OrderedDict[Any, Original] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Any) -> Original | None:
        return self._kept.get(key)

    def keep(self, key: Any, original: Original) -> None:
        """As the newest; the last one is kept however large it is."""
        self._kept[key] = original
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and (len(self._kept) > self.pictures or self._bytes() > self.latent_bytes):
            self._kept.popitem(last=False)

    def clear(self) -> None:
        self._kept.clear()

    def _bytes(self) -> int:
        return sum(original.latent_bytes for original in self._kept.values())
