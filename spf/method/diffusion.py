"""Noising, target and one-step x_0 with one meaning for both families, so that no loss asks what the network predicts.

Eq. 1 and Eq. 9 for noise prediction (U-Net), Eq. 13 for rectified flow (MM-DiT). `t` is what the denoiser is given.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spf.method.precision import wide


class Objective(ABC):
    """What a denoiser is trained to predict. Both families noise by x_t = a(t) x_0 + b(t) noise."""

    @abstractmethod
    def sample_timesteps(
        self, batch: int, generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Training timesteps (B,), drawn where `generator` lives, so that a CPU seed means the same anywhere."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) of x_t = a x_0 + b noise, each (B,) and at least float32."""

    @abstractmethod
    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser should answer for x_t; shaped like x_0."""

    @abstractmethod
    def predict_x0(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """x_0 read off one prediction (D16). At least float32, because b/a magnifies the rounding of `prediction`."""

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (B, ...) in the dtype of x_0, from x_0 and noise of the same shape and t (B,)."""
        a, b = (_per_sample(c, x_0).to(x_0.dtype) for c in self.coefficients(t))  # (B, 1, 1, 1)
        return a * x_0 + b * noise

    @abstractmethod
    def x0_error(self, t: Tensor) -> Tensor:
        """By how much `predict_x0` magnifies an error of the prediction, (B,)."""

    def min_snr_weight(self, t: Tensor, snr_gamma: float) -> Tensor:
        """What a sample's squared error counts, (B,): min(SNR, snr_gamma) once it is an error of x_0 (Hang et al. 2023).

        Without it, nearly clean pictures of what a model has never seen outweigh all others.
        """
        a, b = self.coefficients(t)
        return (a / b).square().clamp(max=snr_gamma) * self.x0_error(t).square()

    def error_amplification(self, t: Tensor) -> Tensor:
        """b/a (B,): how noisy x_t is, hence how little its one-step x_0 can be trusted.

        Reading D15: the enhancement loss counts where this is <= 1: t <= 353 for SD 1.5, sigma <= 0.5 for flow.
        """
        a, b = self.coefficients(t)
        return b / a

    def signal_level(self, t: Tensor) -> Tensor:
        """a^2 / (a^2 + b^2) (B,) in [0, 1]: alpha-bar of either family, the soft weight of D15."""
        a, b = self.coefficients(t)
        return a.square() / (a.square() + b.square())


@dataclass(frozen=True, eq=False)
class EpsilonObjective(Objective):
    """Noise prediction: t is an index into the schedule. Move it once with `.to(device)`, not at every step."""

    alphas_cumprod: Tensor  # Shape: (T,), alpha-bar, each in (0, 1]

    def __post_init__(self) -> None:
        alphas = self.alphas_cumprod
        if alphas.ndim != 1 or not alphas.is_floating_point():
            raise ValueError(f"alphas_cumprod must be a float tensor (T,), got {alphas.dtype} {tuple(alphas.shape)}")
        if not ((alphas > 0) & (alphas <= 1)).all():
            raise ValueError(
                "alphas_cumprod must lie in (0, 1]: at 0 (zero terminal SNR) noise prediction has no one-step x_0; "
                f"got [{alphas.min():.3g}, {alphas.max():.3g}]"
            )

    def to(self, device: torch.device | str) -> "EpsilonObjective":
        """The same objective with its schedule on `device`."""
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device))

    def sample_timesteps(
        self, batch: int, generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Algorithm 1 line 20: t ~ U{0, ..., T-1}, (B,) long."""
        source = device if generator is None else generator.device
        t = torch.randint(len(self.alphas_cumprod), (batch,), generator=generator, device=source)
        return t.to(device, non_blocking=True)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(sqrt(alpha-bar_t), sqrt(1 - alpha-bar_t)), each (B,).

        A sampler may ask for a t between two indices; b/a is then interpolated, as such samplers do.
        """
        alpha_bar = wide(self.alphas_cumprod.to(t.device, non_blocking=True))
        if t.is_floating_point():
            below = t.long().clamp(max=len(alpha_bar) - 2)
            ratio = ((1 - alpha_bar) / alpha_bar).sqrt()
            ratio = torch.lerp(ratio[below], ratio[below + 1], (t - below).to(ratio))
            a = (1 + ratio.square()).rsqrt()
            return a, ratio * a
        return alpha_bar[t].sqrt(), (1 - alpha_bar[t]).sqrt()

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Eq. 1: the noise itself."""
        return noise

    def x0_error(self, t: Tensor) -> Tensor:
        """b/a."""
        return self.error_amplification(t)

    def predict_x0(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """Eq. 9: x_t / sqrt(alpha-bar_t) - sqrt(1 - alpha-bar_t) prediction / sqrt(alpha-bar_t)."""
        a, b = (_per_sample(c, x_t) for c in self.coefficients(t))
        return (x_t - b * prediction) / a


@dataclass(frozen=True)
class FlowObjective(Objective):
    """Rectified flow: t = 1000 sigma as a float, which is what diffusers passes to an SD3 transformer.

    `shift` is the scheduler's: sigma -> shift sigma / (1 + (shift - 1) sigma). SD 3 and SD 3.5 use 3.
    A positive `logit_mean` leans towards noise, as in the SD3 paper (diffusers' script runs its index the other way).
    """

    shift: float = 3.0
    logit_mean: float = 0.0
    logit_std: float = 1.0
    time_scale: float = 1000.0

    def __post_init__(self) -> None:
        for name in ("shift", "logit_std", "time_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def sample_timesteps(
        self, batch: int, generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """1000 sigma (B,) float32, with sigma logit-normal and then shifted."""
        source = device if generator is None else generator.device
        u = torch.randn(batch, generator=generator, device=source, dtype=torch.float32)
        sigma = torch.sigmoid(self.logit_mean + self.logit_std * u)
        sigma = self.shift * sigma / (1 + (self.shift - 1) * sigma)
        return (self.time_scale * sigma).to(device, non_blocking=True)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(1 - sigma, sigma), each (B,)."""
        sigma = wide(t) / self.time_scale
        return 1 - sigma, sigma

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Eq. 13: the velocity noise - x_0, which does not depend on t."""
        return noise - x_0

    def x0_error(self, t: Tensor) -> Tensor:
        """sigma."""
        return self.coefficients(t)[1]

    def predict_x0(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """Eq. 9 for flow: x_t - sigma v."""
        _, sigma = self.coefficients(t)
        return x_t - _per_sample(sigma, x_t) * prediction


def diffusion_loss(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Eq. 1 / Eq. 13: squared error, mean over ALL elements, at least float32; a scalar.

    `weight` (B,) multiplies each sample's mean (min-SNR and the like) and is not normalised away.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    error = (wide(prediction) - wide(target)).square()
    if weight is None:
        return error.mean()
    return (weight * error.flatten(1).mean(1)).mean()


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))  # (B,) -> (B, 1, ..., 1)
