"""The ruler of the embedded world: one small convolutional network that reads every attribute and finds every part.

It was trained on rendered pictures, whose truth is known, and says what a generated picture shows. How well it reads
is measured by `python -m spf pretrain score recogniser` and written down in docs/pocket.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spf.config import REPOSITORY
from spf.errors import ModelNotFound
from spf.pocket.renderer import PARTS
from spf.pocket.world import ATTRIBUTES, TARGETS

FOLDER = REPOSITORY / "assets" / "recogniser"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
SIZE = 128  # pixels, width and height of what the network sees
NO_TARGET = "none"
READABLE: dict[str, tuple[str, ...]] = {**ATTRIBUTES, "target": (NO_TARGET, *TARGETS)}
_BATCH = 64  # pictures seen at once; bounds the memory


@dataclass(frozen=True, eq=False)
class Reading(Sequence[str]):
    """One attribute of B pictures. As a sequence it is the B values; `probabilities` (B, V) sum to 1 over `options`."""

    options: tuple[str, ...]
    probabilities: Tensor

    @cached_property
    def indices(self) -> list[int]:
        """The position of each value in `options`."""
        return self.probabilities.argmax(dim=1).tolist()

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, picture):
        if isinstance(picture, slice):
            return Reading(self.options, self.probabilities[picture])
        return self.options[self.indices[picture]]


class Recogniser:
    """Reads pictures of the embedded world. Deterministic, without gradients; a picture reads the same in any batch.

    This is also the protocol by which metrics and evaluation are handed a recogniser, as an object, since they may not
    import this package: `name`; `attributes`, those that every portrait has; `parts`, the names of the masks in their order;
    `read`, `target_probability`, `parse`, `features`. All take RGB pictures (B, 3, H, W) in [-1, 1]. Sizes other than 128
    are resized, and `parse` answers in the size it was asked in.
    """

    name = "recogniser"
    attributes = tuple(ATTRIBUTES)
    parts = PARTS

    def __init__(self, network: RecogniserNetwork):
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def from_folder(cls, folder: Path = FOLDER, device: torch.device | str = "cpu") -> Recogniser:
        """The committed recogniser, or another one. Raises ModelNotFound naming the missing or damaged file."""
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            if config["attributes"] != _as_lists(READABLE) or config["parts"] != list(PARTS):
                raise ValueError("it reads another picture world")
            network = RecogniserNetwork(**config["architecture"])
            network.load_state_dict({name: value.float() for name, value in load_file(folder / WEIGHTS).items()})
        except FileNotFoundError as error:
            raise ModelNotFound(f"recogniser: {error.filename or folder / WEIGHTS} does not exist; {_REMEDY}") from None
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = str(error).split("\n")[0]
            raise ModelNotFound(f"recogniser: a file of {folder} cannot be used ({reason}); {_REMEDY}") from error
        return cls(network.to(device))

    def to(self, device: torch.device | str) -> Recogniser:
        self.network.to(device)
        return self

    @torch.inference_mode()
    def read(self, images: Tensor) -> dict[str, Reading]:
        """What every picture shows, by attribute, "target" ("none" or a target's name) included.

        Attributes that a target hides (`world.TARGETS[name].hides`) are read too, and mean nothing.
        """
        logits = torch.cat([self.network.logits(self.network.embed(chunk)) for chunk in self._chunks(images)]).float()
        probabilities = logits.split([len(options) for options in READABLE.values()], dim=1)
        return {name: Reading(options, values.softmax(dim=1))
                for (name, options), values in zip(READABLE.items(), probabilities, strict=True)}

    def target_probability(self, images: Tensor, targets: Sequence[str]) -> Tensor:
        """How likely each picture shows its target: (B,) in [0, 1]. Raises ValueError for a name that is none."""
        probabilities, options = (shown := self.read(images)["target"]).probabilities, shown.options
        return probabilities[range(len(targets)), [options.index(name) for name in targets]]

    @torch.inference_mode()
    def parse(self, images: Tensor) -> Tensor:
        """Probability that a pixel belongs to each part: (B, P, H, W), P in the order of `parts`; parts may overlap."""
        masks = torch.cat([self.network.masks(self.network.pyramid(chunk)).float() for chunk in self._chunks(images)])
        if masks.shape[-2:] != images.shape[-2:]:
            masks = F.interpolate(masks, images.shape[-2:], mode="bilinear", antialias=True)
        return masks.sigmoid()

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """What the attributes are read from: (B, F), for distances between sets of pictures."""
        return torch.cat([self.network.embed(chunk).float() for chunk in self._chunks(images)])

    def _chunks(self, images: Tensor) -> Sequence[Tensor]:
        parameter = next(self.network.parameters())
        return [_resized(chunk.to(parameter.device, parameter.dtype)) for chunk in images.split(_BATCH)]


_REMEDY = "restore the folder, or train it with 'python -m spf pretrain recogniser'."


class RecogniserNetwork(nn.Module):
    """Grids of 64x64, 32x32, 16x16 and 8x8; attributes are read from the coarsest, parts from all of them.

    Portraits are centred, so the coarsest grid is flattened rather than averaged: a mouth is always at about one place.
    Two by two pixels enter and leave as channels of the finest grid: as sharp as 128x128, at a quarter of the cost.
    """

    def __init__(self, widths: Sequence[int], features: int, reduced: int, decoder: int):
        """`widths`: channels of the grids, finest first. `reduced`: of the flattened grid. `decoder`: of the parser."""
        super().__init__()
        strides = [1] + [2] * (len(widths) - 1)
        self.stages = nn.ModuleList(
            nn.Sequential(_convolution(before, after, stride=stride), ResidualBlock(after))
            for before, after, stride in zip([12, *widths], widths, strides, strict=False))
        cells = (SIZE >> len(widths)) ** 2
        self.embedding = nn.Sequential(
            _convolution(widths[-1], reduced, kernel=1), nn.Flatten(), nn.Linear(reduced * cells, features),
            nn.BatchNorm1d(features), nn.ReLU())
        self.logits = nn.Linear(features, sum(map(len, READABLE.values())))
        self.laterals = nn.ModuleList(nn.Conv2d(width, decoder, 1) for width in widths)
        self.smoothing = nn.ModuleList(_convolution(decoder, decoder) for _ in widths[1:])
        self.parts = nn.Conv2d(decoder, 4 * len(PARTS), 3, padding=1)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """(B, 3, 128, 128) in [-1, 1] -> features of each grid, finest first."""
        grids = [F.pixel_unshuffle(images, 2)]
        for stage in self.stages:
            grids.append(stage(grids[-1]))
        return grids[1:]

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, 128, 128) -> (B, F), not negative."""
        return self.embedding(self.pyramid(images)[-1])

    def masks(self, grids: Sequence[Tensor]) -> Tensor:
        """Logits of the part masks, (B, P, 128, 128), from the features of each grid."""
        x = self.laterals[-1](grids[-1])
        for grid, lateral, smooth in zip(grids[-2::-1], self.laterals[-2::-1], self.smoothing, strict=True):
            x = smooth(F.interpolate(x, scale_factor=2.0) + lateral(grid))
        return F.pixel_shuffle(self.parts(x), 2)


class ResidualBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = _convolution(width, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


def config_dict(architecture: dict[str, Any]) -> dict[str, Any]:
    """What `config.json` holds: the architecture, and what the outputs mean."""
    return {"architecture": architecture, "attributes": _as_lists(READABLE), "parts": list(PARTS), "size": SIZE}


def _convolution(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU())


def _resized(images: Tensor) -> Tensor:
    if images.shape[-2:] == (SIZE, SIZE):
        return images
    return F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)


def _as_lists(options: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {name: list(values) for name, values in options.items()}
