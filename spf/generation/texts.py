"""Prompts that were encoded already: a swapped phrase leaves the base text and the negative prompt as they were."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

from spf.backbones.base import TextFeatures
from spf.method.phrases import Prompt

Encode = Callable[[Sequence[Prompt]], TextFeatures]


class EncodedTexts:
    """`encode`, which must always answer the same, with its last `kept` answers kept on the CPU.

    Prompts are known by the group that they were encoded in: a picture must not depend, be it by rounding, on what was
    drawn before it.
    """

    def __init__(self, encode: Encode, device: torch.device, kept: int = 16):
        self._encode, self._device, self.kept = encode, device, kept
        self._known: OrderedDict[tuple[Prompt, ...], TextFeatures] = OrderedDict()

    def __call__(self, prompts: Sequence[Prompt]) -> TextFeatures:
        key = tuple(prompts)
        if key not in self._known:
            self._known[key] = self._encode(key).to(torch.device("cpu"))
        self._known.move_to_end(key)
        while len(self._known) > self.kept:
            self._known.popitem(last=False)
        return self._known[key].to(self._device)
