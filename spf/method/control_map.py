"""The Semantic-Aware Fine Control Map: where the target phrase should act (Eq. 5, 7, 16, 18).

Reading D12: Mhat is a measurement, not a path for gradient: compute everything here under `torch.no_grad()`. With the
map attached the model lowers the alignment losses by enlarging its own noise difference until w = 1 - Mhat vanishes.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from spf.method.attention import AttentionLayer, encoder_phrase_maps
from spf.method.precision import wide

PhraseReduce = Literal["sum", "max", "mean"]


def soft_map(
    prediction_ref: Tensor,
    prediction_res: Tensor,
    norm: Literal["l1", "l2"] = "l1",
    quantile: float = 0.99,
    blur: bool = True,
    eps: float = 1e-4,
) -> Tensor:
    """Eq. 5 / Eq. 16: M = |prediction_ref - prediction_res|, (B, C, H, W) twice -> (B, H, W) in [0, 1].

    Both predictions are for the same x_t and t, without guidance. Reading D8, per sample: mean over channels ("l2":
    root mean square), 3x3 Gaussian blur with sigma 1, minus the minimum, over the `quantile` (a maximum would be set by
    one pixel), clamped. A map whose range stays below `eps` before scaling is rounding, not response: zeros.
    """
    if prediction_ref.shape != prediction_res.shape or prediction_ref.ndim != 4:
        shapes = f"{tuple(prediction_ref.shape)} and {tuple(prediction_res.shape)}"
        raise ValueError(f"predictions must share one shape (B, C, H, W), got {shapes}")
    difference = wide(prediction_ref) - wide(prediction_res)  # (B, C, H, W)
    if norm == "l1":
        m = difference.abs().mean(1)  # (B, H, W)
    elif norm == "l2":
        m = torch.linalg.vector_norm(difference, dim=1) / math.sqrt(difference.shape[1])
    else:
        raise ValueError(f"norm must be l1 or l2, got {norm!r}")
    flat = rearrange(_blur(m) if blur else m, "b h w -> b (h w)")
    flat = flat - flat.amin(1, keepdim=True)
    high = torch.quantile(flat, quantile, dim=1, keepdim=True)  # (B, 1)
    scaled = (flat / high.clamp_min(eps)).clamp(0, 1)
    return torch.where(flat.amax(1, keepdim=True) < eps, 0, scaled).reshape(m.shape)


def phrase_relevance(phrase_embeddings: Tensor, target_embedding: Tensor) -> Tensor:
    """The gamma of Eq. 7: cosine of each phrase (B, P, D) with the target (B, D), clamped to [0, 1]; (B, P).

    Reading D10: projected CLIP text embeddings of the phrase and of the target string, each encoded alone; they need
    not be normalised. Zero rows (padding) give 0.
    """
    cosine = F.cosine_similarity(wide(phrase_embeddings), wide(target_embedding)[:, None], dim=-1, eps=1e-6)
    return cosine.clamp(0, 1)


def exclude_phrases(soft_map: Tensor, phrase_maps: Tensor, gamma: Tensor, reduce: PhraseReduce = "sum") -> Tensor:
    """Eq. 7 / Eq. 18: clamp(M - sum_i A_i (1 - gamma_i), 0, 1), (B, H, W).

    soft_map (B, H, W), phrase_maps (B, P, H, W), gamma (B, P), all in [0, 1]; a padded phrase has a zero map. Reading
    D11: clamped, since a negative Mhat would give polluted areas extra weight. `reduce` replaces the sum over phrases
    when many of them would erase everything; "mean" divides by the number of phrases whose map is not all zero.
    """
    pollution = phrase_maps * (1 - gamma)[..., None, None]  # (B, P, H, W)
    if reduce == "sum" or phrase_maps.shape[1] == 0:
        removed = pollution.sum(1)
    elif reduce == "max":
        removed = pollution.amax(1)
    elif reduce == "mean":
        present = (phrase_maps.amax((-2, -1)) > 0).sum(1).clamp_min(1)  # (B,)
        removed = pollution.sum(1) / present[:, None, None]
    else:
        raise ValueError(f"reduce must be sum, max or mean, got {reduce!r}")
    return (soft_map - removed).clamp(0, 1)


def refine(
    soft_map: Tensor, phrase_maps: Tensor, gamma: Tensor, reduce: PhraseReduce = "sum", floor: float = 0.05
) -> Tensor:
    """Eq. 7 / Eq. 18: Mhat, (B, H, W) in [0, 1]. Arguments as in `exclude_phrases`.

    Reading D11: what is left is divided by its maximum, so that the strongest response is fully exempt from alignment;
    where that maximum is at most `floor` nothing answered the target, and Mhat is zero (align everywhere).
    """
    left = exclude_phrases(soft_map, phrase_maps, gamma, reduce)
    peak = left.amax((-2, -1), keepdim=True)  # (B, 1, 1)
    return torch.where(peak > floor, left / peak.clamp_min(floor), 0)


def fine_control_map(
    prediction_ref: Tensor,
    prediction_res: Tensor,
    layers: Sequence[AttentionLayer],
    phrase_weights: Tensor,
    gamma: Tensor,
    norm: Literal["l1", "l2"] = "l1",
    normalize: Literal["minmax", "none"] = "minmax",
    layers_used: Literal["all", "middle"] = "all",
    reduce: PhraseReduce = "sum",
) -> tuple[Tensor, Tensor, Tensor]:
    """Algorithm 1 lines 24-31, from both predictions and the response path's attention to the SFCM.

    phrase_weights (B, T, E, P) as in `encoder_phrase_maps`. Returns M (B, H, W), A (B, P, H, W) and Mhat (B, H, W), on the
    grid of the predictions (B, C, H, W). Reading D9:
    "middle" leaves out the finest grid (noisy) and the coarsest one, if others remain.
    """
    m = soft_map(prediction_ref, prediction_res, norm)
    used = layers if layers_used == "all" else _middle(layers)
    a = encoder_phrase_maps(used, phrase_weights, tuple(m.shape[-2:]), normalize)
    return m, a, refine(m, a, gamma, reduce)


def _middle(layers: Sequence[AttentionLayer]) -> Sequence[AttentionLayer]:
    sizes = sorted({h * w for h, w in (layer.grid for layer in layers)})
    kept = sizes[1:-1] or sizes
    return [layer for layer in layers if layer.grid[0] * layer.grid[1] in kept]


def alignment_weight(sfcm: Tensor, grid: tuple[int, int]) -> Tensor:
    """The 1 - Mhat of Eq. 8 on a layer's grid (h, w): (B, H, W) -> (B, h w) in [0, 1].

    Reading D7: area average, because picking single pixels would alias on coarse grids.
    """
    return rearrange(1 - F.adaptive_avg_pool2d(sfcm[:, None], grid), "b 1 h w -> b (h w)")


def subtraction_sequence(soft_map: Tensor, phrase_maps: Tensor, gamma: Tensor) -> Tensor:
    """Eq. 7 one phrase after another, as Fig. 3 draws it: (B, P + 1, H, W), for display.

    Map 0 is M, map P is `exclude_phrases` with the sum. Clamping at every step or once at the end is the same, because
    no A_i is negative.
    """
    pollution = phrase_maps * (1 - gamma)[..., None, None]  # (B, P, H, W)
    removed = F.pad(pollution.cumsum(1), (0, 0, 0, 0, 1, 0))  # (B, P + 1, H, W)
    return (soft_map[:, None] - removed).clamp(0, 1)


def _blur(m: Tensor) -> Tensor:
    """3x3 Gaussian with sigma 1, reflected at the border; by slices, because autocast would round a convolution."""
    centre = 1 / (1 + 2 * math.exp(-0.5))
    side = centre * math.exp(-0.5)
    m = F.pad(m[:, None], (1, 1, 1, 1), mode="reflect")[:, 0]  # (B, H + 2, W + 2)
    m = centre * m[:, 1:-1] + side * (m[:, :-2] + m[:, 2:])  # (B, H, W + 2)
    return centre * m[..., 1:-1] + side * (m[..., :-2] + m[..., 2:])  # (B, H, W)
