"""Fig. 7a: one customization that knows several targets, which are added and replaced in the prompt one after another."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from spf.evaluation import figures
from spf.evaluation.report import plain
from spf.evaluation.run import PRESERVATION, Cell, Evaluation, once
from spf.evaluation.store import key_of
from spf.evaluation.testset import Triple
from spf.method.phrases import Prompt, join_prompt
from spf.metrics.base import Pairs, summarise
from spf.pocket import captions, renderer, world
from spf.pocket.autoencoder import to_images

_FIRST_SEED = 500


def strips(evaluation: Evaluation) -> tuple[Image.Image, dict[str, Any]]:
    """The strips, one line per seed, and for every step how much of the original is still there."""
    study = evaluation.config.continuous
    taught = "+".join(dict.fromkeys(target for step in study.steps for target in step))
    cell = Cell(study.row, taught)
    method, found = evaluation.method(cell), evaluation.weights(cell)
    response = once(lambda: evaluation.response(found))
    cases = [_case(evaluation, index, taught.split("+")) for index in range(study.seeds)]
    original = evaluation.original(cases)
    columns = [original]
    measured: dict[str, Any] = {}
    for step in study.steps:
        prompts = [_prompt(case, step) for case in cases]
        key = key_of(weights=evaluation.trainer.key(study.row, taught), guide=method.guide, hold=method.hold, how=evaluation.how,
                     targets=len(step),  # what holding multiplies its gain by
                     cases=[(prompt.text, case.seed) for prompt, case in zip(prompts, cases, strict=True)])
        seeds = [case.seed for case in cases]
        pixels = evaluation.stored(key, lambda p=prompts, s=seeds: evaluation.draw(cell, p, s, response()))
        columns.append(pixels)
        measured[f"{len(columns) - 1}. {', '.join(_phrases(step))}"] = _measured(
            evaluation, cases, prompts, step, original, pixels)
    titles = ["Original", *measured]
    lines = [[column[index] for column in columns] for index in range(len(cases))]
    return figures.sheet(lines, titles, [case.base_text for case in cases]), measured


def _case(evaluation: Evaluation, index: int, targets: Sequence[str]) -> Triple:
    """A caption that names nothing which any of the targets hides."""
    hidden = frozenset().union(*(world.TARGETS[target].hides for target in targets))
    rng = random.Random(f"continuous/{evaluation.config.split}/{evaluation.config.seed}/{index}")
    portrait = world.sample_portrait(rng)
    named = [name for name in world.ATTRIBUTES if name not in hidden and rng.random() < 0.6]
    return Triple(targets[0], captions.describe(portrait, named, rng), _FIRST_SEED + index)


def _phrases(step: Sequence[str]) -> list[str]:
    return [world.TARGETS[target].phrase for target in step]


def _prompt(case: Triple, step: Sequence[str]) -> Prompt:
    return join_prompt(case.base_text, _phrases(step))


def _measured(evaluation: Evaluation, cases: Sequence[Triple], prompts: Sequence[Prompt], step: Sequence[str],
              original: np.ndarray, pixels: np.ndarray) -> dict[str, Any]:
    """The columns of preservation; target response is not among them, for the recogniser names one target per picture."""
    count, size = len(cases), original.shape[1]
    hides = frozenset().union(*(world.TARGETS[target].hides for target in step))
    region = np.any([renderer.target_region(target, size) for target in step], axis=0)
    pairs = Pairs(
        to_images(original, evaluation.device), to_images(pixels, evaluation.device), (", ".join(_phrases(step)),) * count,
        tuple(prompt.text for prompt in prompts), (step[0],) * count, (hides,) * count, np.stack([region] * count))
    return plain({metric.key: summarise(metric, metric.extractor(pairs), evaluation.config.resamples)
                  for metric in evaluation.columns.metrics if metric.key in PRESERVATION})
