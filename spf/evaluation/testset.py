"""The test set: triples of base caption, seed and target, from captions of the embedded world that no training set holds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from spf.config import EvaluationConfig
from spf.errors import InvalidInput
from spf.method.phrases import Prompt, join_prompt
from spf.metrics.base import Pairs
from spf.pocket import captions, renderer, world
from spf.pocket.dataset import training_caption

_SEEDS = 1_000_000  # seeds of different targets and splits stay apart by at least as much


@dataclass(frozen=True)
class Triple:
    """One test case. `base_text` names a random subset of a person's attributes; the seed decides the others."""

    target: str  # name of the held-out attribute
    base_text: str
    seed: int

    @property
    def prompt(self) -> Prompt:
        return join_prompt(self.base_text, [world.TARGETS[self.target].phrase])

    @property
    def base(self) -> Prompt:
        return join_prompt(self.base_text, ())


def targets_of(config: EvaluationConfig) -> tuple[str, ...]:
    """The targets of an evaluation. Raises InvalidInput for an unknown one, wherever it is named."""
    study, strip = config.sensitivity, config.continuous
    named = {"targets": config.targets, "sensitivity.targets": study.targets if study else (),
             "continuous.steps": tuple(target for step in strip.steps for target in step) if strip else ()}
    for field, targets in named.items():
        if unknown := [target for target in targets if target not in world.TARGETS]:
            raise InvalidInput(field, f"'{unknown[0]}' is not known; choose from {', '.join(world.TARGETS)}")
    found = config.targets or tuple(world.TARGETS)
    if other := [target for target in named["sensitivity.targets"] if target not in found]:
        raise InvalidInput("sensitivity.targets", f"'{other[0]}' is not among the targets of this evaluation; add it there")
    return found


def triples(config: EvaluationConfig, target: str) -> list[Triple]:
    """`config.triples` cases of one target; the first ones stay the same when more are asked for."""
    taught = {training_caption(target, config.seed, index) for index in range(config.pictures)}
    found: list[Triple] = []
    first_seed = _SEEDS * (1 + list(world.TARGETS).index(target)) + (_SEEDS // 2 if config.split == "tune" else 0)
    index = 0
    while len(found) < config.triples:
        rng = random.Random(f"evaluation/{config.split}/{config.seed}/{target}/{index}")
        base_text = captions.base_caption(world.sample_portrait(rng, target), rng)
        if base_text not in taught:
            found.append(Triple(target, base_text, first_seed + index))
        index += 1
    return found


def chunks(cases: Sequence[Triple], size: int) -> list[list[Triple]]:
    """Consecutive pieces of `size` cases; the last may be smaller."""
    return [list(cases[start:start + size]) for start in range(0, len(cases), size)]


def pairs_of(cases: Sequence[Triple], original: Tensor, customized: Tensor) -> Pairs:
    """Pictures (B, 3, H, W) of these cases, with what their targets may change."""
    targets = tuple(case.target for case in cases)
    return Pairs(
        original, customized, tuple(world.TARGETS[target].phrase for target in targets),
        tuple(case.prompt.text for case in cases), targets, tuple(world.TARGETS[target].hides for target in targets),
        np.stack([renderer.target_region(target, original.shape[-1]) for target in targets]))


def reconstructions_of(cases: Sequence[Triple], original: Tensor, again: Tensor) -> Pairs:
    """The same for portraits of the base text alone: nothing was asked for, so nothing may change."""
    pairs = pairs_of(cases, original, again)
    return replace(pairs, prompts=tuple(case.base.text for case in cases), concerned=(frozenset(),) * len(cases),
                   regions=np.zeros_like(pairs.regions))
