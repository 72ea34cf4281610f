"""What the Blind comparison tab does, as plain functions: draw the pairs, show one, keep its answers, count."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from spf.config import GenerationRequest, home, parse
from spf.errors import InvalidInput
from spf.generation.history import save_result
from spf.study import QUESTIONS, Pair, Study
from spf.ui import catalog, strings
from spf.ui.generate_handlers import require_number
from spf.ui.live import Service

MAX_PAIRS = 50


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
        """One for each contestant and seed. Raises InvalidInput."""
        require_number("pairs", self.count, 8)
        if not 1 <= float(self.count) <= MAX_PAIRS or not float(self.count).is_integer():
            raise InvalidInput("pairs", strings.COMPARE_COUNT.format(most=MAX_PAIRS, value=self.count))
        if not self.first or not self.second:
            raise InvalidInput("customization", strings.NO_CHOICE)
        if self.first == self.second:
            raise InvalidInput("customization", strings.COMPARE_SAME)
        return [tuple(parse(GenerationRequest, {
            "model": self.model, "customization": name, "base_text": self.base_text, "target_texts": (self.target,),
            "seed": seed}) for name in (self.first, self.second)) for seed in range(1, int(self.count) + 1)]


@dataclass(frozen=True, eq=False)
class Asked:
    """The pair that is asked about now: pictures and words; without pictures when all is answered."""

    session: str
    pair: int | None
    words: str
    pictures: tuple[Image.Image, ...] = ()  # original, left, right


def study() -> Study:
    return Study(home() / "studio.sqlite")


def prepare(service: Service, form: CompareForm) -> Iterator[tuple[float, str]]:
    """Draw every pair, then begin a session: (share done, words), the session's name last. Raises SpfError."""
    requests, pairs, started = form.requests(), [], time.monotonic()
    for done, both in enumerate(requests):
        seconds = (time.monotonic() - started) / done * (len(requests) - done) if done else None
        left = "" if seconds is None else strings.COMPARE_LEFT.format(seconds=round(seconds))
        yield done / len(requests), strings.COMPARE_DRAWING.format(number=done + 1, count=len(requests)) + left
        folders = [save_result(service.generate(request), catalog.outputs()).relative_to(catalog.outputs()) for request in both]
        pairs.append(Pair(f"{folders[0]}/original.png", *(f"{folder}/customized.png" for folder in folders), form.target))
    session = f"{time.strftime('%Y-%m-%d %H:%M')} {form.first} / {form.second} {uuid.uuid4().hex[:4]}"
    study().begin(session, (form.first, form.second), pairs, random.SystemRandom().randrange(2**32))
    yield 1.0, session


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
