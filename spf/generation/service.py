"""Loads models and customizations once, remembers original portraits, and runs one generation at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import torch

from spf import config
from spf.backbones import checkpoints
from spf.backbones.base import Backbone
from spf.clip import Clip
from spf.config import GenerationRequest, MethodConfig, ModelPreset
from spf.errors import InvalidInput
from spf.generation.guide import Guide
from spf.generation.originals import Originals
from spf.generation.pair import Encode, OnStep, Pair
from spf.generation.request import GenerationResult, StepView
from spf.generation.room import free_bytes, needed_bytes, seeds_at_once
from spf.generation.together import run_together

MakeGuide = Callable[[GenerationRequest, ModelPreset], Guide]
Parts = list[tuple[checkpoints.Customization, float]]  # of a mix, with their weights
Admit = Callable[[int, torch.device], None]  # (bytes that a generation needs at most, where)

ORIGINALS_KEPT = 32  # pictures; one of 512 x 512 takes 800 kB
LATENT_BYTES_KEPT = 256 * 2**20  # of originals that were held; Stable Diffusion 3.5 takes 40 MiB for 40 steps at 1024 x 1024
TEXTS_KEPT = 8  # groups of prompts; one of Stable Diffusion 3.5 takes 11 MB in fp32
RESPONSES_KEPT = 3  # customized denoisers in memory


@dataclass(frozen=True)
class _Model:
    preset: ModelPreset
    reference: Backbone
    clip: Clip
    encode: Encode  # the reference's, with the last answers kept


class GenerationService:
    """Loads each model once. One generation at a time per service; others wait for the lock."""

    def __init__(self, device: torch.device | str | None = None, guides: Mapping[str, MakeGuide] = MappingProxyType({}),
                 admit: Admit = lambda needed, device: None):
        """`admit` hears of every generation before anything is loaded for it, and may refuse by an SpfError."""
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._guides, self._admit = guides, admit
        self._models: dict[str, _Model] = {}
        self._responses: OrderedDict[Any, Backbone] = OrderedDict()
        self._originals = Originals(ORIGINALS_KEPT, LATENT_BYTES_KEPT)
        self._lock = threading.Lock()

    def load(self, model: str) -> ModelPreset:
        """Make sure that a model is in memory. Raises ModelNotFound."""
        with self._lock:
            return self._model(model).preset

    def forget_originals(self) -> None:
        """Draw every original anew from now on."""
        with self._lock:
            self._originals.clear()

    def generate(self, request: GenerationRequest, on_step: OnStep | None = None,
                 is_cancelled: Callable[[], bool] = lambda: False) -> GenerationResult:
        """Run both paths. `on_step` sees every step that draws maps, or a few where at most one does; `is_cancelled` is asked
        before every step.

        A swapped phrase re-renders only the response path: the original of the same text, seed and settings is kept.
        Raises Cancelled, InvalidInput, ModelNotFound, CustomizationError, or what `admit` raises.
        """
        return self._together((request,), on_step and (lambda index, view: on_step(view)), is_cancelled)[0]

    def generate_all(self, request: GenerationRequest, on_step: Callable[[int, StepView], None] | None = None,
                     is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[GenerationResult]:
        """A result for every seed of `request.one_by_one()`, in order; as many seeds as the free memory holds are drawn in one
        batch. Pictures differ from those drawn one by one by rounding only. `on_step` also hears which seed it is, from 0.
        Raises what `generate` raises.
        """
        waiting = request.one_by_one()
        while waiting:
            done = request.count - len(waiting)
            seen = on_step and (lambda index, view, done=done: on_step(done + index, view))
            results = self._together(waiting, seen, is_cancelled)
            waiting = waiting[len(results):]
            yield from results

    def _together(self, singles: Sequence[GenerationRequest], on_step: Callable[[int, StepView], None] | None,
                  is_cancelled: Callable[[], bool]) -> list[GenerationResult]:
        """Results of as many of these requests, which differ by their seeds alone, as fit into memory at once."""
        request = singles[0]
        with self._lock, torch.inference_mode():
            parts = _parts(request)  # what does not belong to the model is refused before that is loaded
            self._admit(self._needed(request), self.device)
            with torch.inference_mode(False):  # a guide may want gradients, which weights made in that mode refuse
                model = self._model(request.model)
                response, method = self._response(request, parts)
            first = Pair(model.reference, response, model.clip, model.preset.resolution, request, method,
                         self._guide(request, model.preset), model.encode)
            several = request.model_copy(update={"count": len(singles)})
            fitting = 1 if len(singles) == 1 else seeds_at_once(
                several, model.reference, model.preset.resolution, free_bytes(self.device))
            pairs = [first, *(first.of_seed(single.seed) for single in singles[1:fitting])]
            keys = [(request.model, pair.original_key) for pair in pairs]
            results = run_together([
                pair.steps(self._originals.get(key), on_step and partial(on_step, index), is_cancelled)
                for index, (pair, key) in enumerate(zip(pairs, keys, strict=True))])
            for key, pair in zip(keys, pairs, strict=True):
                self._originals.keep(key, pair.original)
            return results

    def _needed(self, request: GenerationRequest) -> int:
        loaded = self._models.get(request.model)
        return needed_bytes(request, config.model_preset(request.model), loaded.reference if loaded else None)

    def _model(self, name: str) -> _Model:
        if name not in self._models:
            preset = config.model_preset(name)
            clip = Clip.load(preset.clip).to(self.device)
            reference = checkpoints.load_backbone(preset, self.device)
            # kept by the group of prompts encoded together: no picture may depend, be it by rounding, on what was drawn before
            self._models[name] = _Model(preset, reference, clip, lru_cache(TEXTS_KEPT)(reference.encode_prompts))
        return self._models[name]

    def _guide(self, request: GenerationRequest, preset: ModelPreset) -> Guide | None:
        if request.guide is None:
            return None
        if request.guide.name not in self._guides:
            raise InvalidInput("guide", f"'{request.guide.name}' is not offered here; leave it out")
        return self._guides[request.guide.name](request, preset)

    def _response(self, request: GenerationRequest, parts: Parts) -> tuple[Backbone, MethodConfig]:
        """The customized model and how its maps are drawn; the reference itself where no customization is asked for."""
        model = self._model(request.model)
        if not parts:
            return model.reference, model.preset.method
        key = (request.model, *((part.folder, part.version, weight) for part, weight in parts))
        if key not in self._responses:
            tensors = checkpoints.mixed(model.reference, parts)
            response = model.reference.fork(tensors)  # what was not trained is in memory once
            checkpoints.apply(response, tensors)
            self._responses[key] = response
            while len(self._responses) > RESPONSES_KEPT:
                self._responses.popitem(last=False)
        return self._responses[key], parts[0][0].card.method


def _parts(request: GenerationRequest) -> Parts:
    """The customizations that a request asks for. Raises CustomizationError if one is not of its model."""
    if request.customization is None:
        return []
    preset, weights = config.model_preset(request.model), config.mix_weights(request.customization)
    return [(checkpoints.customization(name, preset), weight) for name, weight in weights.items()]
