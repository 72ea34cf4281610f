"""Attention maps and features of one layer, and their sum over layers (Eq. 3, 6, 14, 17).

Shapes: B samples, H heads, N = h w image positions, T text tokens, D channels per head, P phrases.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from spf.method.precision import wide


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """What a phrase map needs from one layer. MM-DiT layers set `image_key`: their two streams share a softmax."""

    query: Tensor  # Shape: (B, H, N, D), from the image
    text_key: Tensor  # Shape: (B, H, T, D)
    grid: tuple[int, int]  # (h, w), N = h w
    image_key: Tensor | None = None  # Shape: (B, H, N, D)
    scale: float | None = None  # None: 1 / sqrt(D)

    def rows(self, first: int, end: int | None = None) -> "AttentionLayer":
        """The samples from `first` on, or up to `end`, for example the conditional half of a guided pass."""
        image_key = None if self.image_key is None else self.image_key[first:end]
        return replace(self, query=self.query[first:end], text_key=self.text_key[first:end], image_key=image_key)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, H D) -> (B, H, N, D), as attention layers lay out their heads; D5."""
    return rearrange(x, "b n (h d) -> b h n d", h=heads)


def attention_map(
    query: Tensor, text_key: Tensor, image_key: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """The A of Eq. 6: softmax(Q K^T scale) over text tokens, (B, H, N, T); rows sum to 1.

    Reading D20: with `image_key` the softmax runs over [image, text] keys jointly, as in an MM-DiT layer, and the text
    columns are returned; rows then sum to less than 1. Materialises the map: for looking at, not for training.
    """
    keys = text_key if image_key is None else torch.cat([image_key, text_key], dim=-2)  # (B, H, N + T, D)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    probabilities = torch.softmax(query @ keys.mT * scale, dim=-1)  # (B, H, N, N + T)
    return probabilities[..., keys.shape[-2] - text_key.shape[-2] :]  # (B, H, N, T)


def text_features(text: Tensor, image_key: Tensor, image_value: Tensor, w: Tensor | None = None) -> Tensor:
    """Eq. 3 / Eq. 14 with the mask of Eq. 8: F = softmax(text image_key^T / sqrt(D)) diag(w) image_value, (B, H, T, D).

    Eq. 3 is Attention(K, Q, Q): `text` holds the text keys, `image_key` and `image_value` are both Q. Eq. 14 is
    Attention(Q^txt, K^vis, V^vis). w (B, N) in [0, 1] is 1 - Mhat on this layer's grid; None is the unmasked equation.
    Reading D6 (mask before contract): F has lost its spatial axis, so the map of Eq. 8 weighs positions before they are
    summed. The softmax is not renormalised: that would amplify a token living in the target region, not release it.
    """
    if w is not None:
        image_value = image_value * w[:, None, :, None].to(image_value.dtype)  # (B, H, N, D)
    return F.scaled_dot_product_attention(text, image_key, image_value)


def phrase_attention(
    query: Tensor, text_key: Tensor, phrase_weights: Tensor, image_key: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Mean over heads of `attention_map` times `phrase_weights` (B, T, P): one layer's phrase maps, (B, N, P).

    The weights ride in the place of the values, so a fused kernel never holds an (N, T) or (N, N) matrix.
    """
    heads, tokens, d = text_key.shape[1:]
    phrases = phrase_weights.shape[-1]
    scale = d**-0.5 if scale is None else scale
    keys = text_key
    if image_key is not None:
        keys = torch.cat([image_key, text_key], dim=-2)  # (B, H, N + T, D)
        phrase_weights = F.pad(phrase_weights, (0, 0, keys.shape[-2] - tokens, 0))  # (B, N + T, P)
    # Fused kernels want values as wide as keys; zero columns change neither the scores nor the phrase columns.
    width = max(d, phrases)
    values = F.pad(phrase_weights.to(query.dtype), (0, width - phrases))[:, None].expand(-1, heads, -1, -1)
    query, keys = F.pad(query, (0, width - d)), F.pad(keys, (0, width - d))
    out = F.scaled_dot_product_attention(query, keys, values, scale=scale)  # (B, H, N, width)
    return wide(out[..., :phrases]).mean(1)  # (B, N, P)


def mean_over_layers(maps: Iterable[tuple[Tensor, tuple[int, int]]], size: tuple[int, int]) -> Tensor:
    """Eq. 6: (1 / L) sum over layers of (map (B, N, P), (h, w)), bilinear at `size`; (B, P, *size).

    Upsampling is linear, so maps of one grid are added first and each grid is upsampled once. ValueError if no layer.
    """
    sums: dict[tuple[int, int], Tensor] = {}
    layers = 0
    for layer, (h, w) in maps:
        if layer.shape[1] != h * w:
            raise ValueError(f"a map of {layer.shape[1]} positions does not fill its grid {h}x{w}")
        sums[h, w] = sums[h, w] + layer if (h, w) in sums else layer
        layers += 1
    if not layers:
        raise ValueError("no attention layer was given, so there is no map to average")
    total = sum(_upsample(rearrange(m, "b (h w) p -> b p h w", h=h, w=w), size) for (h, w), m in sums.items())
    return total / layers


def minmax(maps: Tensor) -> Tensor:
    """Each map (..., H, W) stretched to [0, 1]; one that varies by less than 1e-4 of its peak says nothing: zeros."""
    low, peak = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    informative = peak - low > 1e-4 * peak
    return torch.where(informative, (maps - low) / torch.where(informative, peak - low, 1), 0)


def phrase_maps(
    layers: Iterable[AttentionLayer],
    phrase_weights: Tensor,
    size: tuple[int, int],
    normalize: Literal["minmax", "none"] = "minmax",
) -> Tensor:
    """Eq. 6: the map of each phrase, mean over heads, the phrase's tokens and all layers; (B, P, *size).

    phrase_weights (B, T, P): column i holds 1/len on the tokens of phrase i; a zero column (padding) gives a zero map.
    Reading D9: min-max per phrase, without which values near 1/T could remove nothing from a soft map in [0, 1].
    "none" keeps the probabilities and is linear in the weights: one column sum_i weights_i (1 - gamma_i) is then exact.
    """
    if normalize not in ("minmax", "none"):
        raise ValueError(f"normalize must be minmax or none, got {normalize!r}")
    per_layer = (
        (phrase_attention(layer.query, layer.text_key, phrase_weights, layer.image_key, layer.scale), layer.grid)
        for layer in layers
    )
    maps = mean_over_layers(per_layer, size)  # (B, P, H, W)
    return minmax(maps) if normalize == "minmax" else maps


def encoder_phrase_maps(
    layers: Iterable[AttentionLayer],
    phrase_weights: Tensor,
    size: tuple[int, int],
    normalize: Literal["minmax", "none"] = "minmax",
) -> Tensor:
    """Eq. 17: the map of each phrase, mean over the E text encoders of their `phrase_maps`; (B, P, *size).

    phrase_weights (B, T, E, P): column (e, i) holds 1/len on the tokens that encoder e gave to phrase i. With one encoder
    this is Eq. 6. Readings D19, D20: each encoder's map is normalised before the mean, since T5 spreads its mass over more
    tokens than CLIP; without T5 there is one encoder, and 1/(2 L) becomes 1/L.
    """
    columns = rearrange(phrase_weights, "b t e p -> b t (e p)")
    maps = phrase_maps(layers, columns, size, normalize)  # (B, E P, H, W)
    return reduce(maps, "b (e p) h w -> b p h w", "mean", e=phrase_weights.shape[2])


def _upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[1] == 0:  # no phrase: interpolate refuses empty tensors
        return maps.new_zeros(maps.shape[0], 0, *size)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
