"""What one open page knows: its results, what is on show, and the generation that is under way."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from spf.config import GenerationRequest, home
from spf.generation.request import GenerationResult, StepMaps, StepView
from spf.generation.timeline import Timeline
from spf.method.phrases import Prompt


@dataclass(frozen=True)
class Look:
    """How the maps are looked at. `map` names an array of StepMaps, with an index where it holds several."""

    map: str = "sfcm"
    mean: bool = True
    step: int = 1  # which of the drawn steps, from 1, when not the mean
    opacity: float = 0.6


@dataclass(frozen=True, eq=False)
class Shown:
    """What the centre of the page shows: finished, or growing (`live`)."""

    original: Image.Image | None
    customized: Image.Image | None
    maps: tuple[StepMaps, ...]
    phrases: tuple[str, ...]  # of the base text
    targets: tuple[str, ...]
    num_inference_steps: int
    gamma: tuple[float, ...] = ()  # relevance of each phrase; empty while it is not known
    live: bool = False

    @classmethod
    def of_view(cls, view: StepView, request: GenerationRequest) -> Shown:
        prompt = _prompt(request)
        original, customized = view.pictures
        return cls(original, customized, (view.maps,) if view.maps else (), _texts(prompt.phrases),
                   _texts(prompt.targets), view.num_inference_steps, live=True)

    @classmethod
    def of_request(cls, request: GenerationRequest) -> Shown:
        """Its phrases as they were asked for, before any was left out to fit the text encoder."""
        return cls.of_view(StepView(0, 1, lambda: (None, None), None), request)

    @classmethod
    def of_result(cls, result: GenerationResult) -> Shown:
        prompt = result.prompt
        gamma = tuple(float(value) for value in result.gamma)
        return cls(result.original, result.customized, tuple(result.maps), _texts(prompt.phrases),
                   _texts(prompt.targets), result.request.num_inference_steps, gamma)


@dataclass(frozen=True, eq=False)
class Kept:
    """A result on show, its folder on disk unless saving failed, and its step unless the timeline could not be written."""

    result: GenerationResult
    folder: Path | None
    step: int | None = None

    def picture(self, name: str) -> Image.Image | Path:
        """`original` or `customized`: the file, which carries the settings, if there is one."""
        return self.folder / f"{name}.png" if self.folder else getattr(self.result, name)


class Session:
    """One open page. Lives in a gr.State, which takes no dataclass apart; handlers change it in place."""

    def __init__(self, key: str | None = None) -> None:
        self.open(key or uuid.uuid4().hex)
        self.shown: Shown | None = None
        self.current: Kept | None = None  # the result on show; None while one grows or was cut off
        self.look = Look()
        self.pinned: int | None = None  # the step that others are compared with
        self.compared: tuple[Kept, int | None, list[Any]] | None = None  # result, pinned step, and their comparisons as panes
        self.batch: Kept | None = None  # the first result of the seeds under way, or drawn last
        self.stop = threading.Event()  # set to cancel the generation under way
        self.running: GenerationRequest | None = None  # what is being drawn
        self.superseded = False  # it was cancelled because the form changed: the next one is on its way

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        """gr.State copies its first value for every page: each begins with a timeline of its own."""
        return Session()

    def open(self, key: str) -> None:
        """Go on with the timeline called `key`, which this browser knows; nobody else does."""
        self.timeline = Timeline(home() / "studio.sqlite", key)


def _prompt(request: GenerationRequest) -> Prompt:
    from spf.method.emphasis import weighted_prompt  # with torch, which the page opens without

    return weighted_prompt(request.base_text, request.target_texts)


def _texts(phrases) -> tuple[str, ...]:
    return tuple(phrase.text for phrase in phrases)
