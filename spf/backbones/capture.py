"""Reading the outputs of named submodules during a forward pass, without touching what they compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def capture(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Outputs of the named submodules, by name, for forward passes made inside the block; the last pass wins.

    Assigned, never appended: under gradient checkpointing the backward pass runs every hook a second time.
    Modules are looked up here, so a block entered after LoRA injection sees the adapted output. AttributeError if a
    name does not exist, before any hook is set.
    """
    modules = {name: model.get_submodule(name) for name in names}
    outputs: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module, _args, output):
            outputs[name] = output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def latent_grid(denoiser: nn.Module) -> Iterator[dict[str, tuple[int, int]]]:
    """Height and width of the latents that the denoiser was last given, as "latents"."""
    grid: dict[str, tuple[int, int]] = {}
    handle = denoiser.register_forward_pre_hook(lambda _module, args: grid.update(latents=tuple(args[0].shape[-2:])))
    try:
        yield grid
    finally:
        handle.remove()
