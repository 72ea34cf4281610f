"""Finding the published weights of a metric on this machine. Nothing is ever downloaded while scoring."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from spf.metrics.base import MetricUnavailable


@dataclass(frozen=True)
class Published:
    """A weights file or folder that others have published."""

    metric: str  # as a table calls it
    path: str  # file, or folder, relative to the folder of weights
    source: str  # where to get it, and its licence


def torch_cache() -> Path:
    """Where torch.hub and torchvision keep what they have downloaded before."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def find(published: Published, folder: Path) -> Path:
    """The file in `folder` or in torch's own cache. Raises MetricUnavailable naming the file, both places and the source."""
    places = [folder / published.path, torch_cache() / Path(published.path).name]
    for place in places:
        if place.exists():
            return place
    raise MetricUnavailable(
        f"{published.metric}: {places[0]} does not exist (nor does {places[1]}); get it from {published.source}.")


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or a pickled .pt/.pth file, which is read without running any code in it.

    Raises MetricUnavailable if it is damaged or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises its own, pickle's and zipfile's errors on a damaged file
        kind = "safetensors" if isinstance(error, SafetensorError) else type(error).__name__
        raise MetricUnavailable(f"{path} cannot be read as weights ({kind}); download it again.") from None
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise MetricUnavailable(f"{path} does not hold plain weights; download it again.")
    return loaded


def fill(module: torch.nn.Module, tensors: dict[str, Tensor], path: Path) -> torch.nn.Module:
    """The module with exactly these weights, frozen, in eval mode, float32. Raises MetricUnavailable if they do not fit."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[-1].strip()
        raise MetricUnavailable(f"{path} does not fit its network ({reason}); get the file that is named above.") from None
    return module.float().eval().requires_grad_(False)
