"""Model offload: what a stage does not use waits in main memory while the stage trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from spf.backbones.base import Backbone
from spf.clip import Clip
from spf.training.stages import DualPathStage, Stage


def unused(stage: Stage, reference: Backbone, clip: Clip) -> list[nn.Module]:
    """Parts that no step of the stage calls. A stage that does not align needs the response path's denoiser alone.

    A reference that shares tensors with the response path stays: they cannot be in two places.
    """
    encoders = [network for name, network in reference.networks().items() if name.startswith("text_encoder")]
    if isinstance(stage, DualPathStage):
        return encoders if stage.decoder is None else [*encoders, *reference.vae.children()]
    used = {id(parameter) for parameter in stage.response.denoiser.parameters()}
    shares = any(id(parameter) in used for parameter in reference.denoiser.parameters())
    return [*encoders, *reference.vae.children(), *clip.model.children(), *([] if shares else [reference.denoiser])]


@contextmanager
def offloaded(parts: Sequence[nn.Module], device: torch.device, rest: torch.device = torch.device("cpu")) -> Iterator[None]:
    """Inside the block the parts are at `rest`. One that is called all the same, for a preview, comes to `device` until
    another one is called: never more than one of them is there. After the block all are back."""
    present: list[nn.Module] = []

    def come(part: nn.Module, _arguments: tuple) -> None:
        if part in present:
            return
        while present:
            _move(present.pop(), rest)
        _move(part, device)
        present.append(part)

    for part in parts:
        _move(part, rest)
    hooks = [part.register_forward_pre_hook(come) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for part in parts:
            _move(part, device)


@torch.inference_mode(False)
def _move(part: nn.Module, device: torch.device) -> None:
    """Also from inside a preview, whose mode would make weights that no later stage could send gradients through."""
    part.to(device)
