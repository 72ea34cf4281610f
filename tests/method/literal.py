"""Algorithm 1, stage 2, lines 20-43, written out with loops and single numbers; the yardstick of test_equations.py,
test_algorithm.py and tests/training/test_stage2_literal.py.

Deliberately shares nothing with spf.method: no SDPA, no interpolate, no pooling, no quantile, no batched call. A map
is a list of rows of scalars, a phrase is a list of token indices, a batch is a loop. Slow and obvious.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Map = list[list[Tensor]]


@dataclass(eq=False)
class Layer:
    """One attention layer of both paths for ONE sample; matrices per head, in Eq. 3's letters."""

    h: int
    w: int
    K_ref: list[Tensor]  # per head (T, d): keys of the base text (Eq. 14: Q^txt)
    K_res: list[Tensor]
    Q_ref: list[Tensor]  # per head (h w, d): image queries (Eq. 15: Q^vis)
    Q_res: list[Tensor]
    I_ref: list[Tensor] | None = None  # Eq. 14's K^vis and V^vis; None: Attention(K, Q, Q)
    I_res: list[Tensor] | None = None
    V_ref: list[Tensor] | None = None
    V_res: list[Tensor] | None = None
    T_res: list[Tensor] | None = None  # MM-DiT: text keys of the joint softmax

    @cached_property
    def A_res(self) -> list[list[list[Tensor]]]:
        """Per head A^j of Eq. 6, which every phrase reads."""
        return [attention_image_to_text(self, head) for head in range(len(self.Q_res))]


def softmax(row: list[Tensor]) -> list[Tensor]:
    exponentials = [torch.exp(x - max(row).detach()) for x in row]
    return [x / sum(exponentials) for x in exponentials]


def scores(A: Tensor, B: Tensor) -> list[list[Tensor]]:
    """A B^T / sqrt(d), entry by entry."""
    d = A.shape[1]
    return [[sum(A[i, c] * B[j, c] for c in range(d)) / math.sqrt(d) for j in range(len(B))] for i in range(len(A))]


def upsample(m: Map, H: int, W: int) -> Map:
    """Bilinear, pixel centres aligned as areas (align_corners=False)."""
    h, w = len(m), len(m[0])

    def source(i: int, big: int, small: int) -> tuple[int, int, float]:
        x = max((i + 0.5) * small / big - 0.5, 0.0)
        low = math.floor(x)
        return low, min(low + 1, small - 1), x - low

    out = []
    for i in range(H):
        y0, y1, fy = source(i, H, h)
        row = []
        for j in range(W):
            x0, x1, fx = source(j, W, w)
            top = m[y0][x0] * (1 - fx) + m[y0][x1] * fx
            bottom = m[y1][x0] * (1 - fx) + m[y1][x1] * fx
            row.append(top * (1 - fy) + bottom * fy)
        out.append(row)
    return out


def flatten(m: Map) -> list[Tensor]:
    return [x for row in m for x in row]


def each(function, *maps: Map) -> Map:
    return [[function(*(m[i][j] for m in maps)) for j in range(len(maps[0][0]))] for i in range(len(maps[0]))]


def zero_map(H: int, W: int) -> Map:
    return [[torch.zeros((), dtype=torch.float64) for _ in range(W)] for _ in range(H)]


def clamp01(x: Tensor) -> Tensor:
    if x.item() < 0:
        return torch.zeros_like(x)
    if x.item() > 1:
        return torch.ones_like(x)
    return x


def attention_image_to_text(layer: Layer, head: int) -> list[list[Tensor]]:
    """The response path's A^j: (h w) rows of T probabilities; MM-DiT: softmax over image and text keys together."""
    Q = layer.Q_res[head]
    if layer.T_res is None:
        return [softmax(row) for row in scores(Q, layer.K_res[head])]
    image, text = scores(Q, layer.I_res[head]), scores(Q, layer.T_res[head])
    return [softmax(i + t)[len(i) :] for i, t in zip(image, text, strict=True)]


def phrase_map(layers: list[Layer], tokens: list[int], H: int, W: int, normalize: str = "minmax") -> Map:
    """Lines 27-28: A_bar[i] = 1/L sum_j A^j[i], each layer upsampled on its own, then min-max (reading D9)."""
    total = zero_map(H, W)
    for layer in layers:
        grid = zero_map(layer.h, layer.w)
        for y in range(layer.h):
            for x in range(layer.w):
                for A in layer.A_res:
                    for token in tokens:
                        grid[y][x] = grid[y][x] + A[y * layer.w + x][token] / (len(layer.A_res) * len(tokens))
        total = each(lambda a, b: a + b, total, upsample(grid, H, W))
    mean = each(lambda a: a / len(layers), total)
    low, high = min(flatten(mean)), max(flatten(mean))
    if normalize == "none":
        return mean
    return each(lambda a: (a - low) / (high - low), mean) if high - low > 1e-4 * high else zero_map(H, W)


def encoder_mean(layers: list[Layer], tokens_by_encoder: list[list[int]], H: int, W: int, normalize: str = "minmax") -> Map:
    """Eq. 17: A_bar[i], the mean of the maps that each text encoder's tokens give."""
    maps = [phrase_map(layers, tokens, H, W, normalize) for tokens in tokens_by_encoder]
    return each(lambda *values: sum(values) / len(maps), *maps)


def blur(m: Map) -> Map:
    H, W = len(m), len(m[0])

    def reflect(i: int, n: int) -> int:
        return -i if i < 0 else 2 * (n - 1) - i if i >= n else i

    kernel = {(dy, dx): math.exp(-(dy * dy + dx * dx) / 2) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
    norm = sum(kernel.values())
    return [
        [sum(k / norm * m[reflect(y + dy, H)][reflect(x + dx, W)] for (dy, dx), k in kernel.items()) for x in range(W)]
        for y in range(H)
    ]


def percentile(values: list[Tensor], q: float) -> Tensor:
    ordered = sorted(values, key=lambda v: v.item())
    rank = q * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def soft_map(eps_ref: Tensor, eps_res: Tensor, norm: str) -> Map:
    """Line 25, with reading D8."""
    C, H, W = eps_ref.shape
    m = zero_map(H, W)
    for y in range(H):
        for x in range(W):
            differences = [eps_ref[c, y, x] - eps_res[c, y, x] for c in range(C)]
            if norm == "l1":
                m[y][x] = sum(abs(d) for d in differences) / C
            else:
                m[y][x] = torch.sqrt(sum(d * d for d in differences) / C)
    m = blur(m)
    low = min(flatten(m))
    m = each(lambda a: a - low, m)
    if max(flatten(m)).item() < 1e-4:  # rounding, not response
        return zero_map(H, W)
    high = percentile(flatten(m), 0.99)
    return each(lambda a: clamp01(a / high), m)


def cosine(a: list[Tensor], b: list[Tensor]) -> Tensor:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (torch.sqrt(sum(x * x for x in a)) * torch.sqrt(sum(y * y for y in b)))


def refined_map(M: Map, maps: list[Map], gamma: list[Tensor], phrase_reduce: str) -> Map:
    """Line 31, with reading D11."""
    H, W = len(M), len(M[0])
    left = zero_map(H, W)
    for y in range(H):
        for x in range(W):
            removed = [A[y][x] * (1 - g) for A, g in zip(maps, gamma, strict=True)]
            amount = {"sum": sum(removed), "max": max(removed, default=0), "mean": sum(removed) / max(1, len(removed))}
            left[y][x] = clamp01(M[y][x] - amount[phrase_reduce])
    peak = max(flatten(left))
    return each(lambda a: a / peak, left) if peak.item() > 0.05 else zero_map(H, W)


def pool(m: Map, h: int, w: int) -> list[Tensor]:
    """Mean over the area that each of h x w cells covers, row by row."""
    H, W = len(m), len(m[0])
    out = []
    for i in range(h):
        for j in range(w):
            rows = range(i * H // h, -(-(i + 1) * H // h))
            columns = range(j * W // w, -(-(j + 1) * W // w))
            out.append(sum(m[y][x] for y in rows for x in columns) / (len(rows) * len(columns)))
    return out


def features(text: Tensor, key: Tensor, value: Tensor, w: list[Tensor]) -> list[list[Tensor]]:
    """Line 34's F with the mask before the contraction (reading D6): F_n = sum_p A_np w_p value_p."""
    out = []
    for row in scores(text, key):
        A = softmax(row)
        out.append([sum(A[p] * w[p] * value[p, c] for p in range(len(value))) for c in range(value.shape[1])])
    return out


def norm_of(entries: list[Tensor], reduction: str) -> Tensor:
    squares = sum(e * e for e in entries)
    return torch.sqrt(squares) if reduction == "l2norm" else squares / len(entries)


def text_term(F_ref: list[Tensor], F_res: list[Tensor], base_tokens: list[int], reduction: str) -> Tensor:
    """One layer's L_M-text of one sample, from the features of each head (T, d)."""
    entries = [a - b for ref, res in zip(F_ref, F_res, strict=True) for n in base_tokens
               for a, b in zip(ref[n], res[n], strict=True)]
    return norm_of(entries, reduction) if entries else torch.zeros((), dtype=torch.float64)


def fine_term(Q_ref: list[Tensor], Q_res: list[Tensor], w: list[Tensor], reduction: str) -> Tensor:
    """One layer's L_M-fine of one sample, from the queries of each head (h w, d)."""
    entries = [(a - b) * w[p] for ref, res in zip(Q_ref, Q_res, strict=True) for p in range(len(w))
               for a, b in zip(ref[p], res[p], strict=True)]
    return norm_of(entries, reduction)


def alignment(layers: list[Layer], sfcm: Map, base_tokens: list[int], reduction: str) -> tuple[Tensor, Tensor]:
    """Lines 33-37: (L_M-text, L_M-fine) of one sample."""
    text_terms, fine_terms = [], []
    for layer in layers:
        w = [1 - m for m in pool(sfcm, layer.h, layer.w)]
        F_ref, F_res = [], []
        for head in range(len(layer.Q_ref)):
            Q_ref, Q_res = layer.Q_ref[head], layer.Q_res[head]
            I_ref, V_ref = (Q_ref, Q_ref) if layer.I_ref is None else (layer.I_ref[head], layer.V_ref[head])
            I_res, V_res = (Q_res, Q_res) if layer.I_res is None else (layer.I_res[head], layer.V_res[head])
            F_ref.append(features(layer.K_ref[head], I_ref, V_ref, w))
            F_res.append(features(layer.K_res[head], I_res, V_res, w))
        text_terms.append(text_term(F_ref, F_res, base_tokens, reduction))
        fine_terms.append(fine_term(layer.Q_ref, layer.Q_res, w, reduction))
    layers_in_mean = len(layers) if reduction == "mean_mean" else 1
    return sum(text_terms) / layers_in_mean, sum(fine_terms) / layers_in_mean


def unit(v: Tensor) -> list[Tensor]:
    length = torch.sqrt(sum(x * x for x in v))
    return [x / length for x in v]


def bias(image: Tensor, text: Tensor) -> list[Tensor]:
    """Line 40 for one sample, with reading D17."""
    return [a - b for a, b in zip(unit(image), unit(text), strict=True)]


def enhanced(image_hat: Tensor, image_0: Tensor, text: Tensor) -> Tensor:
    """Lines 40-41 for one sample."""
    return 1 - cosine(bias(image_hat, text), bias(image_0, text))
