"""The four losses of stage 2 and their sum (Eq. 3, 4, 8-12, 14, 15). Each is a scalar, at least float32.

Reading D13 (`reduction`): "mean_sum" is squared error, mean over batch, heads, rows and channels, summed over layers,
so that lambda = (0.2, 0.1, 0.6) can stand beside a mean-reduced L_diff. "mean_mean" also averages over layers. "l2norm"
is Algorithm 1 lines 35-36: the norm, not squared, of each sample's whole difference, summed over layers.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from spf.method.precision import wide

Reduction = Literal["mean_sum", "mean_mean", "l2norm"]


def text_consistent_loss(
    F_ref_layers: Sequence[Tensor],
    F_res_layers: Sequence[Tensor],
    token_mask: Tensor,
    reduction: Reduction = "mean_sum",
) -> Tensor:
    """Eq. 3 / Eq. 8 / Eq. 14: sum over layers of ||F_ref - F_res||^2 over the base tokens.

    F per layer (B, H, T, D), from `attention.text_features`, which has already applied 1 - Mhat; row n of both paths
    must be the same token. token_mask (B, T) is 1 on base word tokens (reading D4: not BOS, EOS, PAD, comma or target).
    Each sample is averaged over its own base tokens, so a batch equals the mean of its samples; without any it gives 0.
    """
    mask = wide(token_mask)
    rows = mask.sum(1).clamp_min(1)  # (B,)
    terms = []
    for F_ref, F_res in zip(F_ref_layers, F_res_layers, strict=True):
        difference = _difference(F_ref, F_res) * mask[:, None, :, None]  # (B, H, T, D)
        _, heads, _, d = difference.shape
        terms.append(_layer_term(difference, rows * (heads * d), reduction))
    return _over_layers(terms, reduction)


def fine_grained_loss(
    Q_ref_layers: Sequence[Tensor],
    Q_res_layers: Sequence[Tensor],
    weights: Sequence[Tensor | None] | None = None,
    reduction: Reduction = "mean_sum",
) -> Tensor:
    """Eq. 4 / Eq. 8 / Eq. 15: sum over layers of ||(Q_ref - Q_res) w||^2.

    Q per layer (B, H, N, D); weights per layer (B, N) = 1 - Mhat, or None for the vanilla Eq. 4. The mean is over ALL
    elements, not over sum w, so that a larger exempt area really relaxes the loss.
    """
    weights = [None] * len(Q_ref_layers) if weights is None else weights
    terms = []
    for Q_ref, Q_res, w in zip(Q_ref_layers, Q_res_layers, weights, strict=True):
        difference = _difference(Q_ref, Q_res)  # (B, H, N, D)
        if w is not None:
            difference = difference * wide(w)[:, None, :, None]
        terms.append(_layer_term(difference, difference[0].numel(), reduction))
    return _over_layers(terms, reduction)


def clip_loss(image_embedding: Tensor, text_embedding: Tensor, weight: Tensor | None = None) -> Tensor:
    """Eq. 9: 1 - cos(tau_vision(x0_hat), tau_text(E_tar)), the direct supervision that Eq. 11 replaces.

    Embeddings (B, D), normalised or not; weight as in `enhanced_loss`. The paper's formula lacks the comma.
    """
    return _gated_mean(1 - _cosine(image_embedding, text_embedding), weight)


def representation_bias(image_embedding: Tensor, text_embedding: Tensor) -> Tensor:
    """Eq. 10: Delta = tau_vision(x) - tau_text(E_tar), (B, D). Reading D17: both L2-normalised first."""
    return F.normalize(wide(image_embedding), dim=-1, eps=1e-6) - F.normalize(wide(text_embedding), dim=-1, eps=1e-6)


def enhanced_loss(bias_predicted: Tensor, bias_truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """Eq. 11: 1 - cos(Delta(x0_hat, E_tar), Delta(x_0, E_tar)), biases (B, D); Delta(x_0) is a constant of the data.

    weight (B,) >= 0 gates samples (reading D15: 1 where the one-step x0_hat is usable). The result is
    sum(weight loss) / max(sum(weight), 1): zero, with zero gradient, when every sample is gated away. None: plain mean.
    """
    return _gated_mean(1 - _cosine(bias_predicted, bias_truth), weight)


def total_loss(losses: Mapping[str, Tensor]) -> Tensor:
    """Eq. 12: the sum of the terms, each of which already carries its lambda. ValueError if there is none."""
    if not losses:
        raise ValueError("there is no loss to sum: every term is switched off")
    return torch.stack(list(losses.values())).sum()


def _difference(ref: Tensor, res: Tensor) -> Tensor:
    if ref.shape != res.shape:
        raise ValueError(f"reference {tuple(ref.shape)} and response {tuple(res.shape)} features differ in shape")
    return wide(ref) - wide(res)


def _layer_term(difference: Tensor, count: Tensor | int, reduction: Reduction) -> Tensor:
    """One layer's term from its weighted difference (B, ...); `count` is the number of elements that a mean is over."""
    flat = difference.flatten(1)
    if reduction == "l2norm":
        return torch.linalg.vector_norm(flat, dim=1).mean()  # its gradient at zero is zero, unlike that of sqrt
    if reduction in ("mean_sum", "mean_mean"):
        return (flat.square().sum(1) / count).mean()
    raise ValueError(f"reduction must be mean_sum, mean_mean or l2norm, got {reduction!r}")


def _over_layers(terms: list[Tensor], reduction: Reduction) -> Tensor:
    if not terms:
        raise ValueError("no layer was given, so there is nothing to align")
    return torch.stack(terms).mean() if reduction == "mean_mean" else torch.stack(terms).sum()


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(wide(a), wide(b), dim=-1, eps=1e-6)  # (B,); eps bounds the gradient of a zero vector


def _gated_mean(loss: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return loss.mean()
    return (weight * loss).sum() / weight.sum().clamp_min(1)
