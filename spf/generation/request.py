"""What the generation service hands out while it works and when it is done. The request itself is config.GenerationRequest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image

from spf.config import GenerationRequest
from spf.method.phrases import Prompt


def _none() -> np.ndarray:
    return np.zeros((0, 0, 0))


@dataclass(frozen=True, eq=False)
class StepMaps:
    """The maps of one denoising step, each in [0, 1] on the latent grid (H, W); exact for this step's latent."""

    step: int  # index of the denoising step, from 0
    timestep: int  # t of the diffusion process
    soft_map: np.ndarray  # (H, W)      M, Eq. 5
    sfcm: np.ndarray  # (H, W)      Mhat, Eq. 7
    phrase_maps: np.ndarray  # (P, H, W)   attention of each base phrase, Eq. 6
    target_maps: np.ndarray  # (K, H, W)   attention of each target phrase, for looking at
    # What follows is for looking at, too, and empty in results of earlier versions.
    original_maps: np.ndarray = field(default_factory=_none)  # (P, H, W)   each base phrase in the original model, same x_t
    layer_groups: tuple[str, ...] = ()  # G names of groups of layers
    layer_maps: np.ndarray = field(default_factory=_none)  # (G, P + K + P, H, W)   phrase, target, original by group


@dataclass(frozen=True, eq=False)
class StepView:
    """A look at a running generation: at the steps that draw maps, or at a few where at most one does.

    A preview is no small part of a step, so it is decoded when it is first looked at, and not at all where nobody does.
    """

    step: int
    num_inference_steps: int
    decode: Callable[[], tuple[Image.Image | None, Image.Image | None]]
    maps: StepMaps | None

    @cached_property
    def pictures(self) -> tuple[Image.Image | None, Image.Image | None]:
        """Original and customized portrait as they stand at this step."""
        return self.decode()


@dataclass(frozen=True, eq=False)
class GenerationResult:
    request: GenerationRequest
    original: Image.Image
    customized: Image.Image
    prompt: Prompt  # the response path's prompt, with the character spans of its phrases
    gamma: np.ndarray  # (P,) relevance of each base phrase to the target, Eq. 7
    maps: list[StepMaps]
    metrics: dict[str, float] = field(default_factory=dict)  # how much of the original was preserved
    seconds: dict[str, float] = field(default_factory=dict)
    scheduler: str = "ddim"  # the one that was used

    def mean_map(self, name: str, index: int | None = None) -> np.ndarray:
        """Mean over the drawn steps of a map of StepMaps, (H, W); `index` picks one phrase. ValueError without maps."""
        if not self.maps:
            raise ValueError("no maps were drawn; ask for map_steps > 0")
        values = [getattr(maps, name) for maps in self.maps]
        return np.mean([value if index is None else value[index] for value in values], axis=0)
