"""STORM (CVPR 2025): in the first steps the latents move until the attention of two words overlaps less.

Written from the paper's description, for U-Nets. The two words are the head of the base text's first phrase that names a
thing and the head of the target; with neither "left" nor "right", "above" nor "below" in the prompt the cost is their
mutual overlap. Readings: the published cost does not depend on where mass is moved to, so <plan, cost> is
sum map cost whatever the plan, and no target disc appears; costs of a direction lie along that direction's axis;
a step is scaled with the root of the number of latent values, so that it moves small latents as far as large ones.

Shapes: N = h w positions, T tokens. Times of the paper's 50 steps are stretched to the steps of a request.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spf.backbones.base import Backbone, LayerFeatures, TextFeatures
from spf.baselines.magnet import concept_of
from spf.config import StormConfig
from spf.generation.guide import Guide
from spf.method.attention import attention_map
from spf.method.phrases import Phrase, Prompt

GRID = 16  # the maps that are used have the resolution nearest to this
PUBLISHED_STEPS, PUBLISHED_LATENTS = 50, 4 * 64 * 64
_REFINED = {5: 0.95, 10: 0.99, 15: 0.995, 20: 0.999}  # step of 50 -> how far below 1 the loss must come
_DIRECTIONS = {"left": (0, 1), "right": (0, -1), "above": (1, 1), "below": (1, -1)}  # axis (x, y), side of the first word


@dataclass(frozen=True, eq=False)
class Words:
    """Which tokens (T,) hold the two subjects, and their adjectives where they have one; weights that sum to 1."""

    subject: Tensor
    object: Tensor
    adjectives: tuple[Tensor | None, Tensor | None]
    direction: str | None


def overlap_loss(a_sub: Tensor, a_obj: Tensor) -> Tensor:
    """Each map's mass where the other one lies, both ways: 2 sum_p a_sub(p) a_obj(p). Maps (N,) that sum to 1."""
    return 2 * (a_sub * a_obj).sum()


def direction_loss(a_sub: Tensor, a_obj: Tensor, grid: tuple[int, int], direction: str, weight: float) -> Tensor:
    """Mass of either map that lies on the wrong side of the other one's centre, dearer the farther; a scalar.

    For "left": C(p) = a_obj(p) f(p), f = 1 / (w (c_obj - x)) where x < c_obj, else w (x - c_obj), and mirrored for the
    object. Distances count from one position on, so that f is bounded.
    """
    axis, side = _DIRECTIONS[direction]
    x = _coordinates(grid, axis, a_sub)  # (N,)
    total = 0
    for own, other, sign in ((a_sub, a_obj, side), (a_obj, a_sub, -side)):
        ahead = sign * ((other * x).sum() - x)  # > 0 on the right side of the other's centre
        f = torch.where(ahead > 0, 1 / (weight * ahead.clamp_min(1)), weight * (-ahead).clamp_min(0))
        total = total + (own * other * f).sum()
    return total


def binding_loss(noun: Tensor, adjective: Tensor, regularization: float = 0.1, iterations: int = 100) -> Tensor:
    """What it costs to carry one map (N,) into the other: half by distance in index, half by difference in value.

    Both distances are divided by their largest value; the plan is Sinkhorn's.
    """
    index = torch.arange(len(noun), device=noun.device, dtype=noun.dtype)
    distance, difference = (index[:, None] - index).abs(), (noun[:, None] - adjective).abs()
    cost = 0.5 * distance / distance.amax().clamp_min(1) + 0.5 * difference / difference.amax().clamp_min(1e-8)
    return (sinkhorn(noun, adjective, cost, regularization, iterations) * cost).sum()


def sinkhorn(a: Tensor, b: Tensor, cost: Tensor, regularization: float, iterations: int, eps: float = 1e-8) -> Tensor:
    """The entropic transport plan (N, N) between a and b (N,), with gradient."""
    kernel = torch.exp(-cost / regularization)
    u = torch.ones_like(a)
    for _ in range(iterations):
        v = b / (kernel.T @ u + eps)
        u = a / (kernel @ v + eps)
    return u[:, None] * kernel * v


def word_maps(layers: list[LayerFeatures], columns: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Attention (W, N) of W words given by their tokens (W, T), and its grid.

    Mean over the heads and the layers nearest to 16x16 on the way down and up; without the first and last token it is
    sharpened by a softmax of 100 times itself.
    """
    used = [layer for layer in layers if not layer.name.startswith("mid_block.")] or layers
    grid = min((layer.grid for layer in used), key=lambda grid: abs(math.log(math.prod(grid) / GRID**2)))
    maps = [attention_map(layer.attention.query, layer.attention.text_key, scale=layer.attention.scale)[0].mean(0)
            for layer in used if layer.grid == grid]
    mean = torch.stack(maps).mean(0)[:, 1:-1]  # (N, T - 2)
    return (torch.softmax(100 * mean, dim=-1) @ columns[:, 1:-1].T).T, grid


def distribution(a: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """A map (N,) scaled to sum 1; blurred before (3x3 Gaussian, sigma 0.5, reflected) where its grid is given."""
    if grid is not None:
        side = math.exp(-2)
        kernel = torch.tensor([side, 1, side], dtype=a.dtype, device=a.device) / (1 + 2 * side)
        padded = F.pad(a.view(1, 1, *grid), (1, 1, 1, 1), mode="reflect")
        a = F.conv2d(padded, (kernel[:, None] * kernel)[None, None]).flatten()
    return a / a.sum().clamp_min(1e-8)


def storm_loss(layers: list[LayerFeatures], words: Words, weight: float, binds: bool) -> Tensor:
    """The cost of one step; `weight` is w_i, `binds` whether adjectives are drawn to their nouns."""
    adjectives = [adjective for adjective in words.adjectives if adjective is not None] if binds else []
    maps, grid = word_maps(layers, torch.stack([words.subject, words.object, *adjectives]))
    a_sub, a_obj = (distribution(a, grid) for a in maps[:2])
    loss = (overlap_loss(a_sub, a_obj) if words.direction is None
            else direction_loss(a_sub, a_obj, grid, words.direction, weight))
    nouns = [noun for noun, adjective in zip((a_sub, a_obj), words.adjectives, strict=True) if adjective is not None]
    if adjectives:
        bound = [binding_loss(noun, distribution(a)) for noun, a in zip(nouns, maps[2:], strict=True)]
        loss = loss + torch.stack(bound).mean()
    return loss


@dataclass
class Storm(Guide):
    config: StormConfig
    steps: int

    def text(self, backbone: Backbone, full: TextFeatures) -> TextFeatures:
        with torch.inference_mode(False):  # what gradients pass by must not be made in that mode
            self._words = find_words(backbone, full.prompts[1])
        return full

    def latents(self, backbone: Backbone, step: int, t: Tensor, x_t: Tensor, full: TextFeatures) -> Tensor:
        published = step * PUBLISHED_STEPS / self.steps
        if self._words is None or self.config.step_size == 0 or not 0 < step < self.config.guided_share * self.steps:
            return x_t
        with torch.inference_mode(False), torch.enable_grad():
            x, t = x_t.clone(), t.clone()
            text = full[[1]].map(torch.clone)
            threshold = self._threshold(step)
            for _ in range(1 + (self.config.refinements if threshold else 0)):
                x, loss, wrong = self._move(backbone, x, t, text, published, step)
                if threshold is None or loss <= 1 - threshold or not wrong:
                    break
        return x

    def _move(self, backbone: Backbone, x: Tensor, t: Tensor, text: TextFeatures, published: float, step: int,
              ) -> tuple[Tensor, float, bool]:
        """The latents after one step down the cost, the cost before it, and whether the words lay on the wrong side."""
        x = x.detach().requires_grad_(True)
        with backbone.capture() as captured:
            backbone.predict(x, t[None], text)
        layers = captured.layers()
        weight = 1 + 99 * (1 - math.exp(-0.4 * published))
        loss = storm_loss(layers, self._words, weight, step >= self.config.binding_from * self.steps)
        gradient, = torch.autograd.grad(loss, x)
        gradient = gradient / gradient.norm().clamp_min(1)  # clipped to norm 1
        decay = 1 - 0.5 * step / max(1, self.steps - 1)
        size = self.config.step_size * math.sqrt(decay * x.numel() / PUBLISHED_LATENTS)
        return (x - size * gradient).detach(), loss.item(), self._is_wrong(layers)

    def _threshold(self, step: int) -> float | None:
        """The threshold of the step at which the paper's steps 5, 10, 15 and 20 lie; None at others, and undirected."""
        if self._words.direction is None:
            return None
        return {round(at * self.steps / PUBLISHED_STEPS): value for at, value in _REFINED.items()}.get(step)

    @torch.no_grad()
    def _is_wrong(self, layers: list[LayerFeatures]) -> bool:
        if self._words.direction is None:
            return False
        maps, grid = word_maps(layers, torch.stack([self._words.subject, self._words.object]))
        axis, side = _DIRECTIONS[self._words.direction]
        centres = [(distribution(a, grid) * _coordinates(grid, axis, a)).sum() for a in maps]
        return bool(side * (centres[1] - centres[0]) < 0)


def find_words(backbone: Backbone, prompt: Prompt) -> Words | None:
    """Subject and object of a prompt; None if it has no target, or its base text names nothing."""
    subject = next((found for span in prompt.phrases if (found := concept_of(span))), None)
    target = concept_of(prompt.targets[0], certain=True) if prompt.targets else None
    if subject is None or target is None:
        return None
    heads = [_last_word_of(concept.span) for concept in (subject, target)]
    adjectives = [_word_before(concept.span) if concept.attribute else None for concept in (subject, target)]
    spans = [*heads, *(span for span in adjectives if span is not None)]
    spelled = Prompt(prompt.text, prompt.base, prompt.targets, tuple(spans))
    columns = iter(backbone.encode_prompts([spelled]).phrase_weights.flatten(2)[0].T)  # one (T,) for each span
    first, second = next(columns), next(columns)
    found = tuple(next(columns) if span is not None else None for span in adjectives)
    directions = [word for word in re.findall(r"\w+", prompt.text.lower()) if word in _DIRECTIONS]
    return Words(first, second, found, directions[0] if directions else None)


def _last_word_of(span: Phrase) -> Phrase:
    word = span.text.rsplit(maxsplit=1)[-1]
    return Phrase(word, span.end - len(word), span.end)


def _word_before(span: Phrase) -> Phrase:
    """The last but one word, which is the adjective next to the noun."""
    rest = span.text.rsplit(maxsplit=1)[0].rstrip()
    return _last_word_of(Phrase(rest, span.start, span.start + len(rest)))


def _coordinates(grid: tuple[int, int], axis: int, like: Tensor) -> Tensor:
    """x (axis 0) or y (axis 1) of every position, row by row: (N,)."""
    h, w = grid
    y, x = torch.meshgrid(torch.arange(h, device=like.device), torch.arange(w, device=like.device), indexing="ij")
    return (y if axis else x).flatten().to(like.dtype)
