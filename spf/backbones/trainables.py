"""What a stage trains, and how (D2, Appendix E): tensors of the denoiser itself, or an addition to its attention layers.

LoRA and AdaLoRA end up in the tensors they were added to, so that a customization is always "changed tensors of the
denoiser". The parallel attention of 'adapter' cannot be merged: its tensors stay, under their own names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from peft import AdaLoraConfig, LoraConfig
from peft.tuners.adalora import AdaLoraModel
from peft.tuners.lora import LoraModel
from torch import Tensor, nn

from spf.backbones import parallel_attention
from spf.backbones.base import Backbone
from spf.config import AdapterConfig, StageConfig

_NAME = "default"  # peft's name of an adapter
_ALLOCATION_EVERY = 10  # steps between two cuts of AdaLoRA's ranks; fewer in a run of less than 200


class Learner:
    """The parameters that a stage trains in place, by their name in the denoiser. Nothing else has a gradient."""

    def __init__(self, parameters: dict[str, nn.Parameter]):
        self.parameters = parameters
        for parameter in parameters.values():
            parameter.requires_grad_(True)

    def losses(self) -> dict[str, Tensor]:
        """Weighted terms that the parametrisation itself adds to those of the stage."""
        return {}

    def after_step(self) -> None:
        """Called after every optimizer step, while the gradients are still there."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs besides the parameters and the optimizer."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put a `state` back."""

    def finish(self) -> None:
        """Leave plain, frozen tensors in the denoiser."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(False)


@contextmanager
def learning(backbone: Backbone, config: StageConfig, steps: int, seed: int) -> Iterator[Learner]:
    """A stage's learner inside the block; after it the denoiser is plain, frozen, and answers as at the block's end.

    What is initialised at random depends on `seed` only. Raises InvalidInput where the family has no such layers.
    """
    backbone.denoiser.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        learner = _learner(backbone, config, steps)
    try:
        yield learner
    finally:
        learner.finish()


def _learner(backbone: Backbone, config: StageConfig, steps: int) -> Learner:
    if config.trainable == "lora":
        return _Lora(backbone, config.adapter)
    if config.trainable == "adalora":
        return _AdaLora(backbone, config.adapter, steps)
    if config.trainable == "adapter":
        return Learner(parallel_attention.install(backbone.denoiser))
    return Learner(dict(backbone.trainable_parameters(config.trainable)))


def changed_names(backbone: Backbone, config: StageConfig) -> set[str]:
    """Names of the denoiser's own tensors that a stage with these settings may change; what it adds is not among them."""
    if config.trainable in ("lora", "adalora"):
        return {f"{name}.weight" for name in projections(backbone, config.adapter.layers)}
    if config.trainable == "adapter":
        return set()
    return {name for name, _ in backbone.trainable_parameters(config.trainable)}


def projections(backbone: Backbone, layers: Literal["cross", "attention"]) -> list[str]:
    """Names of the linear maps of the attention layers; 'attention' adds a U-Net's self-attention to D2's set."""
    cross = [name.removesuffix(".weight") for name, _ in backbone.trainable_parameters("cross") if name.endswith(".weight")]
    if layers == "cross":
        return cross
    modules = dict(backbone.denoiser.named_modules())
    twins = [twin for name in cross if (twin := name.replace(".attn2.", ".attn1.")) != name and twin in modules]
    return [*cross, *twins]


class _Lora(Learner):
    """W + B A beside every projection: A random, B zero, scaled by 1 whatever the rank."""

    def __init__(self, backbone: Backbone, adapter: AdapterConfig):
        config = LoraConfig(r=adapter.rank, lora_alpha=adapter.rank, init_lora_weights="gaussian",
                            target_modules=projections(backbone, adapter.layers))
        self._tuner = LoraModel(backbone.denoiser, config, _NAME)
        super().__init__(_added(backbone.denoiser))

    def finish(self) -> None:
        super().finish()
        self._tuner.merge_and_unload()


class _AdaLora(Learner):
    """W + B diag(E) A, whose ranks are cut from 1.5 `rank` to `rank` on average, where they matter least."""

    def __init__(self, backbone: Backbone, adapter: AdapterConfig, steps: int):
        first = adapter.rank + max(1, adapter.rank // 2)
        config = AdaLoraConfig(
            init_r=first, target_r=adapter.rank, lora_alpha=first, total_step=steps, tinit=steps // 20,
            tfinal=steps * 3 // 10, deltaT=max(1, min(_ALLOCATION_EVERY, steps // 20)),
            orth_reg_weight=adapter.orthogonality, target_modules=projections(backbone, adapter.layers))
        self._tuner = AdaLoraModel(backbone.denoiser, config, _NAME)
        self._done, self._weight = 0, adapter.orthogonality
        super().__init__(_added(backbone.denoiser))

    def losses(self) -> dict[str, Tensor]:
        """The orthogonality term, which peft adds only to models whose output carries a loss."""
        matrices = [value if "lora_A" in name else value.T
                    for name, value in self.parameters.items() if "lora_E" not in name]
        return {"orthogonality": self._weight * orthogonality(matrices)}

    def after_step(self) -> None:
        self._tuner.update_and_allocate(self._done)
        self._done += 1

    def state(self) -> dict[str, Tensor]:
        """The allocator's running means of importance, and which ranks are left."""
        allocator, pattern = self._tuner.rankallocator, self._config.rank_pattern or {}
        return {"done": torch.tensor(self._done),
                **{f"importance:{name}": value for name, value in allocator.exp_avg_ipt.items()},
                **{f"uncertainty:{name}": value for name, value in allocator.exp_avg_unc.items()},
                **{f"ranks:{name}": torch.tensor(kept) for name, kept in pattern.items()}}

    def restore(self, state: dict[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"importance": {}, "uncertainty": {}, "ranks": {}}
        device = next(iter(self.parameters.values())).device
        for key, value in state.items():
            kind, _, name = key.partition(":")
            parts.setdefault(kind, {})[name] = value.to(device)
        allocator = self._tuner.rankallocator
        self._done = int(state["done"])
        allocator.exp_avg_ipt, allocator.exp_avg_unc = parts["importance"], parts["uncertainty"]
        allocator.ipt = {name: torch.zeros_like(value) for name, value in parts["importance"].items()}
        self._config.rank_pattern = {name: kept.tolist() for name, kept in parts["ranks"].items()} or None

    @property
    def _config(self) -> AdaLoraConfig:
        return self._tuner.peft_config[_NAME]

    def finish(self) -> None:
        super().finish()
        self._tuner.merge_and_unload()


def orthogonality(matrices: list[Tensor]) -> Tensor:
    """AdaLoRA's regulariser: mean over matrices M (r, n) of the Frobenius norm of M M^T - I, not squared."""
    norms = [torch.linalg.matrix_norm(matrix @ matrix.T - torch.eye(len(matrix), device=matrix.device))
             for matrix in matrices]
    return torch.stack(norms).mean()


def _added(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in denoiser.named_parameters()
            if "lora_" in name and parameter.dtype.is_floating_point and "ranknum" not in name}
