"""What the Portrait tab does, as plain functions: no gradio here, a browser is not needed to test it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from spf.config import GenerationRequest, model_preset, parse
from spf.errors import Cancelled, InvalidInput, SpfError
from spf.generation.history import save_result
from spf.generation.request import GenerationResult, StepView
from spf.ui import catalog, live, maps, markup, strings
from spf.ui.live import Service
from spf.ui.session import Kept, Look, Session, Shown

log = logging.getLogger(__name__)
Picture = Image.Image | Path

_EXAMPLES = {"seed": 7, "num_inference_steps": 20, "guidance_scale": 5, "map_steps": 5}


@dataclass(frozen=True)
class Form:
    """The fields as the page holds them; nothing is checked before `request`."""

    model: str = catalog.DEFAULT_MODEL
    customization: str = ""
    base_text: str = ""
    targets: tuple[str, ...] = ()
    seed: Any = 0
    steps: Any = 20
    guidance: Any = 5.0
    map_steps: Any = 5

    def request(self) -> GenerationRequest:
        """Raises InvalidInput naming the first field that cannot be used."""
        numbers = {"seed": self.seed, "num_inference_steps": self.steps, "guidance_scale": self.guidance,
                   "map_steps": self.map_steps}
        for field, value in numbers.items():
            require_number(field, value, _EXAMPLES[field])
        if not self.model:
            raise InvalidInput("model", strings.NO_CHOICE)
        return parse(GenerationRequest, {
            "model": self.model, "customization": self.customization or None, "base_text": self.base_text or "",
            "target_texts": tuple(self.targets), **numbers})

    @classmethod
    def of_request(cls, request: GenerationRequest) -> Form:
        return cls(request.model, request.customization or "", request.base_text, request.target_texts,
                   str(request.seed), request.num_inference_steps, request.guidance_scale, request.map_steps)


def require_number(field: str, value: Any, example: float) -> None:
    """Raises InvalidInput for what no number can be read from; whether it is in range is for the schema to say."""
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        got = strings.EMPTY if value in (None, "") else repr(value)[:40]
        raise InvalidInput(field, strings.NOT_A_NUMBER.format(example=example, value=got)) from None


@dataclass(frozen=True, eq=False)
class Screen:
    """What changes on the page; a field that is None stays as it is."""

    original: Picture | None = None
    customized: Picture | None = None
    overlay: Picture | None = None
    caption: str | None = None
    status: str | None = None
    notice: str | None = None
    busy: bool | None = None
    map_choices: list[tuple[str, str]] | None = None
    map_key: str | None = None
    map_step: int | None = None
    map_count: int | None = None  # how many steps drew maps
    strip: list[tuple[Picture, str]] | None = None


def generate(service: Service, form: Form, session: Session) -> Iterator[Screen]:
    """One press of Generate: busy, a screen for every drawn step, the result. Whatever is wrong ends in a notice."""
    session.stop = stop = threading.Event()
    started = time.monotonic()
    try:
        request = form.request()
        model_preset(request.model)
        yield Screen(notice="", status=markup.quiet(strings.STATUS_WAITING), busy=True)
        for item in live.stream(service, request, stop):
            if isinstance(item, GenerationResult):
                yield _finished(session, item)
            elif item is not None:
                yield _growing(session, item, request, time.monotonic() - started)
    except Cancelled:
        yield _stopped(session, markup.report(strings.CANCELLED))
    except SpfError as error:
        yield _stopped(session, markup.problem(error))
    except Exception:
        log.exception("generation failed")
        yield _stopped(session, markup.problem(strings.UNEXPECTED))


def cancel(session: Session) -> None:
    """Ask the generation of this page to stop; it does so before its next step."""
    session.stop.set()


def _stopped(session: Session, notice: str) -> Screen:
    """The end without a result: the form stays, and so do the pictures, with the line that belongs to them."""
    if session.current is not None:
        return Screen(status=markup.metrics(session.current.result), notice=notice, busy=False)
    return Screen(status=markup.quiet(strings.STATUS_UNFINISHED if session.shown else strings.STATUS_READY),
                  notice=notice, busy=False)


def _growing(session: Session, view: StepView, request: GenerationRequest, seconds: float) -> Screen:
    session.current = None
    session.shown = shown = Shown.of_view(view, request)
    drawn = maps.draw(shown, session.look)
    status = strings.STATUS_DRAWING.format(step=view.step + 1, steps=view.num_inference_steps, seconds=seconds)
    return Screen(view.original, view.customized, drawn.picture, markup.caption(drawn.caption, drawn.usable),
                  markup.quiet(status))


def _finished(session: Session, result: GenerationResult) -> Screen:
    notice, folder = _dropped_phrases(result), None
    try:
        folder = save_result(result, catalog.outputs())
    except OSError as error:
        notice = markup.problem(strings.NOT_SAVED.format(reason=error.strerror or error))
    session.keep(Kept(result, folder))
    return replace(show(session, session.results[0]), notice=notice, busy=False)


def show(session: Session, kept: Kept) -> Screen:
    """Put a finished result on the page, with the map and the opacity that are chosen."""
    session.current = kept
    session.shown = shown = Shown.of_result(kept.result)
    session.look = replace(session.look, map=maps.available(shown, session.look.map),
                           step=min(session.look.step, max(len(shown.maps), 1)))
    drawn = maps.draw(shown, session.look)
    return Screen(
        kept.picture("original"), kept.picture("customized"), drawn.picture,
        markup.caption(drawn.caption, drawn.usable), markup.metrics(kept.result), map_choices=maps.choices(shown),
        map_key=session.look.map, map_step=session.look.step, map_count=len(shown.maps), strip=strip(session))


def redraw(session: Session, look: Look) -> Screen:
    """Another map, step or opacity of what is on show: the model does not run."""
    session.look = look
    if session.shown is None:
        return Screen(caption=markup.caption(strings.MAP_BEFORE))
    drawn = maps.draw(session.shown, look)
    return Screen(overlay=drawn.picture, caption=markup.caption(drawn.caption, drawn.usable))


def strip(session: Session) -> list[tuple[Picture, str]]:
    """(customized portrait, caption) of every result of this session, newest first."""
    return [(kept.picture("customized"), strings.STRIP_CAPTION.format(
        targets=", ".join(kept.result.request.target_texts) or strings.STRIP_NO_TARGET, seed=kept.result.request.seed))
        for kept in session.results]


def restore(session: Session, index: int) -> tuple[Form, Screen]:
    """Pictures and form of an earlier result. A customization that was deleted meanwhile is said, and left out."""
    kept = session.results[index]
    form, screen = Form.of_request(kept.result.request), show(session, kept)
    if form.customization and form.customization not in catalog.customizations(form.model):
        gone = strings.CUSTOMIZATION_GONE.format(name=form.customization)
        return replace(form, customization=""), replace(screen, notice=markup.problem(gone))
    return form, replace(screen, notice="")


def dice() -> str:
    """A seed to try; small enough to be read out."""
    return str(random.SystemRandom().randrange(2**32))


def targets_for(customization: str, targets: list[str]) -> list[str]:
    """The phrases to show after another customization was chosen: phrases that the user wrote are never touched."""
    known = catalog.phrases(customization)
    if known and set(targets) <= catalog.taught_phrases():
        return known[:1]
    return targets


def _dropped_phrases(result: GenerationResult) -> str:
    """A sentence where the text encoder's window was too small for the base text; empty otherwise."""
    asked = Shown.of_view(StepView(0, 1, None, None, None), result.request).phrases
    dropped = asked[len(result.prompt.phrases):]
    if not dropped:
        return ""
    return markup.problem(strings.PHRASES_DROPPED.format(phrases=", ".join(f"'{text}'" for text in dropped)))
