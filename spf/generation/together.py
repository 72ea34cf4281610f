"""Several paths drawn in step: what their models are asked for at the same time is asked in one batch."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from spf.backbones.base import Backbone, TextFeatures, joined
from spf.generation.request import GenerationResult
from spf.method.attention import AttentionLayer


@dataclass(frozen=True, eq=False)
class Ask:
    """A prediction that a path waits for."""

    backbone: Backbone
    x_t: Tensor  # (R, C, h, w)
    t: Tensor  # (R,)
    text: TextFeatures  # R prompts
    captures: bool = False

    @property
    def kind(self) -> tuple:
        """Asks of one kind fit into one batch."""
        return id(self.backbone), self.captures, self.x_t.shape[1:]


@dataclass(frozen=True, eq=False)
class Answer:
    prediction: Tensor  # (R, C, h, w)
    layers: list[AttentionLayer]  # of the same rows; empty unless asked for
    seconds: float  # this path's share


Path = Generator[Ask, Answer, GenerationResult]


def run_together(paths: Sequence[Path]) -> list[GenerationResult]:
    """Run all of them to their ends. Whatever one of them raises ends all."""
    waiting: dict[int, Ask] = {}
    results: dict[int, GenerationResult] = {}

    def go_on(index: int, answer: Answer | None) -> None:
        try:
            waiting[index] = paths[index].send(answer)
        except StopIteration as ended:
            results[index] = ended.value
            waiting.pop(index, None)

    for index in range(len(paths)):
        go_on(index, None)
    while waiting:
        kind = next(iter(waiting.values())).kind
        asks = {index: ask for index, ask in waiting.items() if ask.kind == kind}
        for index, answer in zip(asks, answered(list(asks.values())), strict=True):
            go_on(index, answer)
    return [results[index] for index in range(len(paths))]


def answered(asks: Sequence[Ask]) -> list[Answer]:
    """The answers to asks of one kind, by one prediction."""
    started, first = time.perf_counter(), asks[0]
    x_t, t, text = first.x_t, first.t, first.text
    if len(asks) > 1:
        x_t, t = (torch.cat([getattr(ask, name) for ask in asks]) for name in ("x_t", "t"))
        text = joined([ask.text for ask in asks])
    with first.backbone.capture() if first.captures else nullcontext() as features:
        prediction = first.backbone.predict(x_t, t, text)
    layers = [layer.attention for layer in features.layers()] if first.captures else []
    share, answers, row = (time.perf_counter() - started) / len(asks), [], 0
    for ask in asks:
        end = row + len(ask.x_t)
        answers.append(Answer(prediction[row:end], [layer.rows(row, end) for layer in layers], share))
        row = end
    return answers
