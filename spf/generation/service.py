"""Loads models and customizations once, remembers original portraits, and runs one generation at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from spf.generation.pair import OnStep, Original, Pair
from spf.generation.request import GenerationResult
from spf.generation.room import needed_bytes

MakeGuide = Callable[[GenerationRequest, ModelPreset], Guide]
Admit = Callable[[int, torch.device], None]  # (bytes that a generation needs at most, where)

ORIGINALS_KEPT = 32  # pictures and previews; one of the pocket model takes 300 kB
RESPONSES_KEPT = 3  # customized denoisers in memory


@dataclass(frozen=True)
class _Model:
    preset: ModelPreset
    reference: Backbone
    clip: Clip


class GenerationService:
    """Loads each model once. One generation at a time per service; others wait for the lock."""

    def __init__(self, device: torch.device | str | None = None, guides: Mapping[str, MakeGuide] = MappingProxyType({}),
                 admit: Admit = lambda needed, device: None):
        """`admit` hears of every generation before anything is loaded for it, and may refuse by an SpfError."""
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._guides, self._admit = guides, admit
        self._models: dict[str, _Model] = {}
        self._responses: OrderedDict[Any, Backbone] = OrderedDict()
        self._originals: OrderedDict[Any, Original] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, model: str) -> ModelPreset:
        """Make sure that a model is in memory. Raises ModelNotFound."""
        with self._lock:
            return self._model(model).preset

    def generate(self, request: GenerationRequest, on_step: OnStep | None = None,
                 is_cancelled: Callable[[], bool] = lambda: False) -> GenerationResult:
        """Run both paths. `on_step` sees every step that draws maps; `is_cancelled` is asked before every step.

        A swapped phrase re-renders only the response path: the original of the same text, seed and settings is kept.
        Raises Cancelled, InvalidInput, ModelNotFound, CustomizationError, or what `admit` raises.
        """
        with self._lock, torch.inference_mode():
            self._admit(self._needed(request), self.device)
            with torch.inference_mode(False):  # a guide may want gradients, which weights made in that mode refuse
                model = self._model(request.model)
                response, method = self._response(request)
            pair = Pair(model.reference, response, model.clip, model.preset.resolution, request, method,
                        self._guide(request, model.preset))
            key = (request.model, pair.original_key)
            result = pair.run(self._originals.get(key), on_step, is_cancelled)
            _remember(self._originals, key, pair.original, ORIGINALS_KEPT)
            return result

    def _needed(self, request: GenerationRequest) -> int:
        loaded = self._models.get(request.model)
        return needed_bytes(request, config.model_preset(request.model), loaded.reference if loaded else None)

    def _model(self, name: str) -> _Model:
        if name not in self._models:
            preset = config.model_preset(name)
            clip = Clip.load(preset.clip).to(self.device)
            self._models[name] = _Model(preset, checkpoints.load_backbone(preset, self.device), clip)
        return self._models[name]

    def _guide(self, request: GenerationRequest, preset: ModelPreset) -> Guide | None:
        if request.guide is None:
            return None
        if request.guide.name not in self._guides:
            raise InvalidInput("guide", f"'{request.guide.name}' is not offered here; leave it out")
        return self._guides[request.guide.name](request, preset)

    def _response(self, request: GenerationRequest) -> tuple[Backbone, MethodConfig]:
        """The customized model and how its maps are drawn; the reference itself where no customization is asked for."""
        model = self._model(request.model)
        if request.customization is None:
            return model.reference, model.preset.method
        weights = config.mix_weights(request.customization)
        parts = [(checkpoints.customization(name, model.preset), weight) for name, weight in weights.items()]
        key = (request.model, *((part.folder, part.version, weight) for part, weight in parts))
        if key not in self._responses:
            tensors = checkpoints.mixed(model.reference, parts)
            response = model.reference.fork(tensors)  # what was not trained is in memory once
            checkpoints.apply(response, tensors)
            _remember(self._responses, key, response, RESPONSES_KEPT)
        return self._responses[key], parts[0][0].card.method


def _remember(cache: OrderedDict, key: Any, value: Any, limit: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > limit:
        cache.popitem(last=False)
