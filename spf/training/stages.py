"""The two training stages. Each turns a batch into weighted losses and numbers to log, and reads like Algorithm 1."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor, nn

from spf.backbones.base import Backbone, LayerFeatures, TextFeatures
from spf.clip import Clip
from spf.config import MethodConfig
from spf.data.batches import Examples
from spf.method import losses as L
from spf.method.attention import text_features
from spf.method.control_map import alignment_weight, fine_control_map
from spf.method.diffusion import diffusion_loss
from spf.training.draws import own_rows

Losses = dict[str, Tensor]  # weighted terms; their sum is what is minimised
Report = dict[str, Tensor]  # only for logging


class Stage(Protocol):
    name: str
    response: Backbone

    def training_forward(self, batch: Examples, generator: Generator) -> tuple[Losses, Report]:
        """Weighted losses with gradient to the response path, and numbers to log. No host synchronisation."""


@dataclass
class FineTuneStage:
    """Stage 1: standard fine-tuning on the full prompt (Eq. 1)."""

    response: Backbone
    empty: TextFeatures  # the encoded empty prompt, one row
    caption_dropout: float = 0.0  # D24
    snr_gamma: float = 0.0
    name: str = "stage1"

    def training_forward(self, batch: Examples, generator: Generator) -> tuple[Losses, Report]:
        objective = self.response.objective
        x_t, t, noise = _noised(self.response, batch.latents, generator)
        text = drop_captions(batch.full, self.empty, self.caption_dropout, generator)
        prediction = self.response.predict(x_t, t, text)
        weight = objective.min_snr_weight(t, self.snr_gamma) if self.snr_gamma else None
        return {"diff": diffusion_loss(prediction, objective.target(batch.latents, noise, t), weight)}, {}


@dataclass
class DualPathStage:
    """Stage 2: dual-path alignment under the SFCM, and response enhancement (Eq. 2-12, Algorithm 1 lines 15-46)."""

    reference: Backbone
    response: Backbone
    clip: Clip
    method: MethodConfig
    empty: TextFeatures
    caption_dropout: float = 0.0  # D24
    base_only_prob: float = 0.0  # D25
    snr_gamma: float = 0.0
    reference_bf16: bool = False  # the reference path's pass alone
    decoder: Callable[[Tensor], Tensor] | None = None  # of L_enhanced; None: the model's own
    name: str = "stage2"
    preservation_terms: ClassVar[tuple[str, ...]] = ("text", "fine")  # on held-out pictures, what a good run lowers

    def training_forward(self, batch: Examples, generator: Generator) -> tuple[Losses, Report]:
        objective, method = self.response.objective, self.method
        x_t, t, noise = _noised(self.response, batch.latents, generator)
        dropped = chosen(len(batch), self.caption_dropout, generator, t.device)  # D24: neither path gets a text
        base_only = chosen(len(batch), self.base_only_prob, generator, t.device)  # D25: aligned, not taught
        asked = (~(dropped | base_only)).float()  # (B,) whether the target is in the prompt
        text = batch.full.where(base_only, batch.base).where(dropped, self.empty)
        base = batch.base.where(dropped, self.empty)
        with torch.no_grad(), self._reference_precision(t.device), self.reference.capture() as captured:
            eps_ref = self.reference.predict(x_t, t, base)
            ref = captured.layers()
        with self.response.capture() as captured:
            eps_res = self.response.predict(x_t, t, text)
            res = captured.layers()
        m_hat, report = self._sfcm(eps_ref, eps_res.detach(), res, batch)
        m_hat = m_hat * asked[:, None, None]  # where nothing was asked for, nothing is exempt
        taught = (dropped | ~base_only).float()  # the picture shows the target, so it is no example of the base text
        if self.snr_gamma:
            taught = taught * objective.min_snr_weight(t, self.snr_gamma)
        losses = {"diff": diffusion_loss(eps_res, objective.target(batch.latents, noise, t), taught)}
        weights = [alignment_weight(m_hat, layer.grid) for layer in res]  # (B, N) per layer
        if method.use_text_loss:
            losses["text"] = method.lambda_text * self._text_loss(ref, res, weights, batch)
        if method.use_fine_loss:
            losses["fine"] = method.lambda_fine * L.fine_grained_loss(
                [layer.image for layer in ref], [layer.image for layer in res], weights, method.align_reduction)
        if method.use_enhanced_loss:
            losses["enhanced"] = method.lambda_enhanced * self._enhanced_loss(x_t, t, eps_res, batch, asked)
        return losses, report

    def _reference_precision(self, device: torch.device) -> AbstractContextManager:
        """Weights stay as they are, since those that nobody trains are the response path's too."""
        return torch.autocast(device.type, torch.bfloat16) if self.reference_bf16 else nullcontext()

    @torch.no_grad()
    def _sfcm(self, eps_ref: Tensor, eps_res: Tensor, layers: list[LayerFeatures], batch: Examples) -> tuple[Tensor, Report]:
        """Mhat (B, h, w), without gradient (D12); zeros, so that everything is aligned, without SFCM (D26)."""
        method = self.method
        m, _, m_hat = fine_control_map(
            eps_ref, eps_res, [layer.attention for layer in layers], batch.full.phrase_weights, batch.gamma,
            norm=method.soft_map_norm, normalize=method.phrase_normalization, layers_used=method.map_layers,
            reduce=method.phrase_reduce)
        report = {"soft_map_mean": m.mean(), "sfcm_mean": m_hat.mean(),
                  "sfcm_empty": (m_hat.amax((-2, -1)) == 0).float().mean(), "gamma_mean": batch.gamma.mean()}
        return (m_hat if method.use_sfcm else torch.zeros_like(m_hat)), report

    def _text_loss(self, ref: list[LayerFeatures], res: list[LayerFeatures], weights: list[Tensor], batch: Examples) -> Tensor:
        rows = batch.base.base_mask * batch.full.base_mask  # base tokens sit at the same positions in both prompts (D3)
        if self.method.include_pad:
            rows = torch.maximum(rows, batch.base.pad_mask * batch.full.pad_mask)
        with self._reference_precision(rows.device):
            f_ref = _text_features(ref, weights)
        f_res = _text_features(res, weights)
        return L.text_consistent_loss(f_ref, f_res, rows, self.method.align_reduction)

    def _enhanced_loss(self, x_t: Tensor, t: Tensor, eps_res: Tensor, batch: Examples, asked: Tensor) -> Tensor:
        """Eq. 11 (or Eq. 9) where the target was asked for (B,) and one step predicts x_0 well enough (D15)."""
        objective, method = self.response.objective, self.method
        usable = asked * (objective.error_amplification(t) <= method.enhanced_max_amplification)  # (B,)
        weight = usable * objective.signal_level(t) if method.enhanced_weight == "signal" else usable
        decode = self.decoder or self.response.decode
        x_0_hat = decode(objective.predict_x0(x_t, eps_res, t))  # Eq. 9
        embedding = self.clip.embed_images(x_0_hat)  # (B, D)
        if method.clip_supervision == "plain":
            return L.clip_loss(embedding, batch.target_embedding, weight)
        return L.enhanced_loss(
            L.representation_bias(embedding, batch.target_embedding),
            L.representation_bias(batch.image_embedding, batch.target_embedding), weight)


def _text_features(layers: list[LayerFeatures], weights: list[Tensor]) -> list[Tensor]:
    """(B, H, T, D) of every layer."""
    return [text_features(layer.text, layer.image_key, layer.image_value, w) for layer, w in zip(layers, weights, strict=True)]


def drop_captions(text: TextFeatures, other: TextFeatures, share: float, generator: Generator) -> TextFeatures:
    """`text` conditioned on `other` (one row, or as many as `text`) in a random `share` of the samples."""
    return text.where(chosen(len(text.embeddings), share, generator, text.embeddings.device), other)


def chosen(count: int, share: float, generator: Generator, device: torch.device) -> Tensor:
    """A random `share` of `count` samples, (B,) bool; a share of 0 draws nothing from `generator`."""
    if share == 0:
        return torch.zeros(count, dtype=torch.bool, device=device)
    return own_rows(lambda rows: torch.rand(rows, generator=generator), count, generator).to(device) < share


def _noised(backbone: Backbone, x_0: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, t and the noise in it (Algorithm 1 lines 9-10 and 20-21); drawn on the CPU, so a seed means the same anywhere."""
    t = own_rows(lambda rows: backbone.objective.sample_timesteps(rows, generator, x_0.device), len(x_0), generator)
    noise = own_rows(lambda rows: torch.randn(rows, *x_0.shape[1:], generator=generator), len(x_0), generator)
    noise = noise.to(x_0.device, x_0.dtype)
    return backbone.objective.add_noise(x_0, noise, t), t, noise


def set_trainable(backbone: Backbone, which: str) -> list[nn.Parameter]:
    """Let exactly the parameters of D2's set `which` learn; returns them."""
    backbone.denoiser.requires_grad_(False)
    parameters = [parameter for _, parameter in backbone.trainable_parameters(which)]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters
