"""What the Blind comparison tab does, as plain functions: draw the pairs, show one, keep its answers, count."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from spf.config import GenerationRequest, home, model_preset, parse
from spf.errors import InvalidInput
from spf.generation.history import save_result
from spf.generation.request import GenerationResult
from spf.study import QUESTIONS, Pair, Study
from spf.ui import catalog, live, strings
from spf.ui.generate_handlers import require_number
from spf.ui.live import Growing, Service

MAX_PAIRS = 50
AT_ONCE = 16  # pairs that one contestant draws before the other does: their originals are then still remembered


@dataclass(frozen=True)
class CompareForm:
    """The fields as the page holds them; nothing is checked before `requests`."""

    first: str | None = None
    second: str | None = None
    base_text: str = ""
    target: str = ""
    count: Any = 8
    model: str = catalog.DEFAULT_MODEL

    def requests(self) -> list[tuple[GenerationRequest, GenerationRequest]]:
        """One for each contestant, both of the same AT_ONCE seeds, until there are enough. Raises InvalidInput, ModelNotFound."""
        require_number("pairs", self.count, 8)
        if not 1 <= float(self.count) <= MAX_PAIRS or not float(self.count).is_integer():
            raise InvalidInput("pairs", strings.COMPARE_COUNT.format(most=MAX_PAIRS, value=self.count))
        for which, name in (("first", self.first), ("second", self.second)):
            if not name:
                few = len(catalog.customizations(self.model)) < 2
                raise InvalidInput(which, strings.COMPARE_FEW if few else strings.NO_CHOICE)
        if self.first == self.second:
            raise InvalidInput("second", strings.COMPARE_SAME)
        last = int(self.count)
        return [tuple(self._request(name, seed, min(AT_ONCE, last + 1 - seed)) for name in (self.first, self.second))
                for seed in range(1, last + 1, AT_ONCE)]

    def _request(self, name: str | None, seed: int, count: int) -> GenerationRequest:
        preset = model_preset(self.model)
        return parse(GenerationRequest, {
            "model": self.model, "customization": name, "base_text": self.base_text, "target_texts": (self.target,),
            "seed": seed, "count": count, "num_inference_steps": preset.num_inference_steps,
            "guidance_scale": preset.guidance_scale})


class Drawing:
    """Whether the pairs that an open page lets be drawn are cancelled. Lives in a gr.State."""

    def __init__(self) -> None:
        self.stop = threading.Event()

    def __deepcopy__(self, memo: dict[int, Any]) -> Drawing:
        """gr.State copies its first value for every page."""
        return Drawing()


@dataclass(frozen=True, eq=False)
class Asked:
    """The pair that is asked about now: pictures and words; without pictures when all is answered."""

    session: str
    pair: int | None
    words: str
    pictures: tuple[Image.Image, ...] = ()  # original, left, right


def study() -> Study:
    return Study(home() / "studio.sqlite")


def prepare(service: Service, form: CompareForm, stop: threading.Event) -> Iterator[tuple[float, str]]:
    """Draw every pair, then begin a session: (share done, words), the session's name last. Raises SpfError.

    Setting `stop` cancels, as closing the iterator does.
    """
    requests, pairs = form.requests(), []
    progress = Progress(2 * int(form.count))
    for both in requests:
        drawn: list[list[Path]] = []  # the pictures' folders, by contestant
        for request in both:
            drawn.append([])
            for item in live.stream(service, request, stop, previews=False):
                if isinstance(item, GenerationResult):
                    drawn[-1].append(save_result(item, catalog.outputs()).relative_to(catalog.outputs()))
                yield progress.after(item)
        pairs += [Pair(f"{first}/original.png", f"{first}/customized.png", f"{second}/customized.png", form.target)
                  for first, second in zip(*drawn, strict=True)]
    session = f"{time.strftime('%Y-%m-%d %H:%M')} {form.first} / {form.second} {uuid.uuid4().hex[:4]}"
    study().begin(session, (form.first, form.second), pairs, random.SystemRandom().randrange(2**32))
    yield 1.0, session


class Progress:
    """How much of `count` portraits is done, with the seconds that are left in words. It never goes back: the portraits of a
    batch are ready together, and saved one by one.
    """

    def __init__(self, count: int):
        self._count, self._ready, self._share, self._started = count, 0, 0.0, time.monotonic()

    def after(self, item: Growing | GenerationResult | None) -> tuple[float, str]:
        """(share, words), given the newest item of the stream."""
        self._ready += isinstance(item, GenerationResult)
        growing = 0.0
        if isinstance(item, Growing):
            growing = (item.together or 1) * (item.view.step + 1) / item.view.num_inference_steps
        share = self._share = max(self._share, (self._ready + growing) / self._count)
        seconds = time.monotonic() - self._started
        left = strings.COMPARE_LEFT.format(seconds=round(seconds / share - seconds)) if 0 < share < 1 else ""
        return min(share, 0.99), strings.COMPARE_READY.format(ready=self._ready, count=self._count) + left


def ask(session: str | None) -> Asked | None:
    """The next open pair of a session; None without one. Who made which picture is not told."""
    if not session or session not in study().sessions():
        return None
    kept = study()
    index, pairs = kept.next(session), kept.pairs(session)
    if index is None:
        return Asked(session, None, strings.COMPARE_DONE)
    pair = pairs[index]
    words = strings.COMPARE_PAIR.format(number=index + 1, count=len(pairs), target=pair.target)
    try:
        pictures = tuple(_picture(path) for path in (pair.original, pair.left, pair.right))
    except OSError:
        raise InvalidInput("result", strings.STEP_GONE) from None
    return Asked(session, index, words, pictures)


def _picture(path: str) -> Image.Image:
    with Image.open(catalog.outputs() / path, formats=["PNG"]) as image:
        return image.convert("RGB")


def answer(session: str, pair: int, answers: list[str | None]) -> Asked | None:
    """Keep the answers, and go on. Raises InvalidInput while a question is open."""
    if not all(answers):
        raise InvalidInput("answers", strings.COMPARE_OPEN)
    study().answer(session, pair, dict(zip(QUESTIONS, answers, strict=True)))
    return ask(session)


def results(session: str) -> str:
    """Win rates with their intervals, as an HTML table; who is who is told here for the first time."""
    kept = study()
    first, second = kept.contestants(session)
    rows = "".join(
        f"<tr><th>{escape(strings.QUESTIONS[score.question])}</th><td>{score.wins}</td><td>{score.losses}</td><td>{score.ties}</td>"
        f"<td>{score.rate:.0%}</td><td>{score.interval[0]:.0%} – {score.interval[1]:.0%}</td></tr>"
        for score in kept.scores(session) if score.answers)
    heads = "".join(f"<th>{escape(head.format(first=first, second=second))}</th>" for head in strings.COMPARE_HEADS)
    return f'<table class="spf-table"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>' if rows else ""


def as_csv(session: str) -> Path:
    """The session's answers as a file. KeyError for an unknown one."""
    path = catalog.outputs() / "exports" / f"comparison-{time.strftime('%Y%m%d-%H%M%S')}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(study().to_csv(session), encoding="utf-8")
    return path
