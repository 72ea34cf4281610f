"""Diffusers' deterministic samplers, all on the same x_t = a x_0 + b noise that the denoiser is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteSchedulerOutput
from torch import Tensor

from spf.errors import InvalidInput


class Euler(EulerDiscreteScheduler):
    """Euler's method on x_t. Diffusers keeps x_t sqrt(sigma^2 + 1) between its steps, which no denoiser and no map wants."""

    @property
    def init_noise_sigma(self) -> Tensor:
        return super().init_noise_sigma / self._width(self.sigmas[0])

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> EulerDiscreteSchedulerOutput:
        self.scale_model_input(sample, timestep)  # finds the index of the step
        now, after = self.sigmas[self.step_index], self.sigmas[self.step_index + 1]
        taken = super().step(model_output, timestep, sample * self._width(now))
        return EulerDiscreteSchedulerOutput(taken.prev_sample / self._width(after), taken.pred_original_sample)

    @staticmethod
    def _width(sigma: Tensor) -> Tensor:
        return (sigma**2 + 1) ** 0.5


class FlowEuler(FlowMatchEulerDiscreteScheduler):
    """Euler's method on the straight paths of a flow."""

    init_noise_sigma = 1.0


def dynamic_shift(config: Mapping[str, Any], positions: int) -> float:
    """mu of a schedule that depends on the size of the picture: linear in its positions, as StableDiffusion3Pipeline has it."""
    slope = (config["max_shift"] - config["base_shift"]) / (config["max_image_seq_len"] - config["base_image_seq_len"])
    return config["base_shift"] + slope * (positions - config["base_image_seq_len"])


UNET_SAMPLERS = {
    "ddim": DDIMScheduler, "dpmpp_2m": DPMSolverMultistepScheduler, "euler": Euler, "unipc": UniPCMultistepScheduler}
FLOW_SAMPLERS = {"euler": FlowEuler}


def sampler_class(samplers: dict[str, type], name: str) -> type:
    """The class called `name`. Raises InvalidInput naming those that the family has."""
    if name not in samplers:
        raise InvalidInput("scheduler", f"'{name}' does not fit this model; choose {' or '.join(samplers)}")
    return samplers[name]
