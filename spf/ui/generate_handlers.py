"""What the Portrait tab does, as plain functions: no gradio here, a browser is not needed to test it."""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spf.config import GenerationRequest, HoldConfig, model_preset, parse
from spf.errors import Cancelled, InvalidInput, SpfError
from spf.generation.history import save_result
from spf.generation.request import GenerationResult
from spf.generation.timeline import SeedPair
from spf.ui import catalog, live, markup, show, strings
from spf.ui.chips import Chip
from spf.ui.live import Growing, Service
from spf.ui.session import Kept, Look, Session, Shown
from spf.ui.show import Screen

log = logging.getLogger(__name__)

_EXAMPLES = {"seed": 7, "num_inference_steps": 20, "guidance_scale": 5, "map_steps": 5, "pairs": 4, "width": 512, "height": 512,
             "hold": 3, "smoothing": 0.5, "interval": 4, "start": 0.15, "floor": 0.5, "heal": 0.85}
_HOLD = {"hold.gain": "hold", "hold.smoothing": "smoothing", "hold.interval": "interval",  # as the page calls them
         "hold.start": "start", "hold.floor": "floor", "hold.heal": "heal"}


@dataclass(frozen=True)
class Form:
    """The fields as the page holds them; nothing is checked before `request`."""

    model: str = catalog.DEFAULT_MODEL
    customization: str = ""
    base_text: str = ""
    targets: tuple[Chip, ...] = ()
    negative: str = ""
    seed: Any = 0
    steps: Any = 20
    guidance: Any = 5.0
    map_steps: Any = 5
    scheduler: str = ""  # empty: the model's own, as for width and height
    width: Any = None
    height: Any = None
    pairs: Any = 1
    hold: Any = HoldConfig().gain  # 0: nothing is held
    smoothing: Any = HoldConfig().smoothing
    interval: Any = HoldConfig().interval
    start: Any = HoldConfig().start
    floor: Any = HoldConfig().floor
    heal: Any = HoldConfig().heal

    def request(self) -> GenerationRequest:
        """Raises InvalidInput naming the first field that cannot be used."""
        numbers = {"seed": self.seed, "num_inference_steps": self.steps, "guidance_scale": self.guidance,
                   "map_steps": self.map_steps}
        sides = {side: value for side, value in (("width", self.width), ("height", self.height)) if value not in (None, "")}
        held = {field: getattr(self, field) for field in _HOLD.values()}
        for field, value in {**numbers, **sides, "pairs": self.pairs, **held}.items():
            require_number(field, value, _EXAMPLES[field])
        if not self.model:
            raise InvalidInput("model", strings.NO_CHOICE)
        on = [chip for chip in self.targets if chip.on]
        return _parsed({
            "model": self.model, "customization": self.customization or None, "base_text": self.base_text or "",
            "target_texts": tuple(chip.text for chip in on), "negative_prompt": self.negative or "",
            "target_weights": () if all(chip.weight == 1 for chip in on) else tuple(chip.weight for chip in on),
            "scheduler": self.scheduler or None, "count": self.pairs,
            "hold": {path.removeprefix("hold."): held[field] for path, field in _HOLD.items()} if float(self.hold) else None,
            **sides, **numbers})

    @classmethod
    def of_request(cls, request: GenerationRequest) -> Form:
        chips, hold = tuple(map(Chip, request.target_texts, request.weights)), request.hold or HoldConfig()
        return cls(request.model, request.customization or "", request.base_text, chips, request.negative_prompt,
                   str(request.seed), request.num_inference_steps, request.guidance_scale, request.map_steps,
                   request.scheduler or "", request.width, request.height, request.count, request.hold_gain,
                   hold.smoothing, hold.interval, hold.start, hold.floor, hold.heal)


def _parsed(values: dict[str, Any]) -> GenerationRequest:
    """Raises InvalidInput under the names that the page has labels for: other tabs count other things."""
    try:
        return parse(GenerationRequest, values)
    except InvalidInput as error:
        raise renamed(error, {"count": "pairs", **_HOLD}) from None


def renamed(error: InvalidInput, names: dict[str, str]) -> InvalidInput:
    """The same refusal of a field that the page calls by another name."""
    return InvalidInput(names.get(error.field, error.field), str(error).removeprefix(f"{error.field}: "))


def require_number(field: str, value: Any, example: float) -> None:
    """Raises InvalidInput for what no number can be read from; whether it is in range is for the schema to say."""
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        got = strings.EMPTY if value in (None, "") else repr(value)[:40]
        raise InvalidInput(field, strings.NOT_A_NUMBER.format(example=example, value=got)) from None


def generate(service: Service, form: Form, session: Session) -> Iterator[Screen]:
    """One press of Generate: busy, a screen for every drawn step, the result. Whatever is wrong ends in a notice."""
    session.stop, session.superseded, session.batch = threading.Event(), False, None
    try:
        request = session.running = form.request()
        model_preset(request.model)
        yield Screen(notice="", status=markup.quiet(strings.STATUS_WAITING), busy=True)
        yield from _drawn(service, request, session)
    except Cancelled:
        yield _stopped(session, "" if session.superseded else markup.report(strings.CANCELLED))
    except SpfError as error:
        yield _stopped(session, markup.problem(error))
    except Exception:
        log.exception("generation failed")
        yield _stopped(session, markup.problem(strings.UNEXPECTED))
    finally:
        session.running = None


def _drawn(service: Service, request: GenerationRequest, session: Session) -> Iterator[Screen]:
    """A screen for every drawn step and result. Of several seeds, the first is on show at the end; they are one step."""
    started, left = time.monotonic(), request.count
    for item in live.stream(service, request, session.stop):
        if isinstance(item, GenerationResult):
            left -= 1
            yield _finished(session, item, request.count, last=not left)
        elif item is not None:
            yield _growing(session, item, request, time.monotonic() - started)


def cancel(session: Session) -> None:
    """Ask the generation of this page to stop; it does so before its next step."""
    session.stop.set()


def supersede(session: Session, form: Form) -> None:
    """Cancel the generation under way if the form asks for another portrait by now: that one is on its way.

    Not the first one of a page: as long as nothing was drawn, no change is drawn at once (`wants_redraw`): nothing would come.
    """
    if session.timeline.current() is None:
        return
    try:
        changed = session.running is not None and form.request() != session.running
    except SpfError:
        return
    if changed:
        session.superseded = True
        session.stop.set()


def wants_redraw(session: Session, form: Form, redraw: bool) -> bool:
    """Whether a change of the phrases is to be drawn at once: asked for, something was drawn, and it is another request."""
    if not redraw or session.timeline.current() is None:
        return False
    try:
        return session.current is None or form.request().one_by_one()[0] != session.current.result.request
    except SpfError:
        return True  # for the page to say what is wrong


def _stopped(session: Session, notice: str) -> Screen:
    """The end without a result: the form stays, and so do the pictures, with the line that belongs to them."""
    if session.batch is not None and session.current is not session.batch:
        return replace(show.result(session, session.batch), notice=notice, busy=False)
    if session.current is not None:
        return Screen(status=markup.metrics(session.current.result), notice=notice, busy=False)
    return Screen(status=markup.quiet(strings.STATUS_UNFINISHED if session.shown else strings.STATUS_READY),
                  notice=notice, busy=False)


def _growing(session: Session, look: Growing, request: GenerationRequest, seconds: float) -> Screen:
    session.current = None
    session.shown = Shown.of_view(look.view, request)
    return replace(show.looked_at(session), status=markup.quiet(_progress(look, request.count, seconds)))


def _progress(look: Growing, count: int, seconds: float) -> str:
    """Which of `count` pairs grow, how far they are, and how long all will take; the last where it can be told."""
    step, steps, first = look.view.step + 1, look.view.num_inference_steps, look.first
    words = strings.STATUS_DRAWING.format(step=step, steps=steps, seconds=seconds)
    if look.together is None:
        return words
    done = first * steps + step * look.together
    words += strings.STATUS_LEFT.format(left=seconds / done * (count * steps - done))
    if count == 1:
        return words
    which = strings.STATUS_PAIR if look.together == 1 else strings.STATUS_PAIRS
    return which.format(number=first + 1, last=first + look.together, count=count) + words


def _finished(session: Session, result: GenerationResult, count: int, last: bool) -> Screen:
    """The first of `count` results is the step, and on show after the `last`; the others are noted with it."""
    notice, kept = _dropped_phrases(result), Kept(result, None)
    try:
        folder = save_result(result, catalog.outputs())
        kept = Kept(result, folder, _noted(session, folder, result.request, count))
    except (OSError, InvalidInput) as error:
        notice = markup.problem(strings.NOT_SAVED.format(reason=getattr(error, "strerror", None) or error))
    session.batch = session.batch or kept
    if not last:
        return Screen(notice=notice, timeline=show.timeline(session), pairs=show.seeds(session, session.batch))
    return replace(show.result(session, session.batch), notice=notice, busy=False)


def _noted(session: Session, folder: Path, request: GenerationRequest, count: int) -> int:
    """The step that a result is, or belongs to. Raises OSError."""
    relative = folder.relative_to(catalog.outputs())
    step = session.batch.step if session.batch else session.timeline.add(relative, request)
    if count > 1 and step is not None:
        session.timeline.add_pairs(step, [SeedPair(request.seed, relative)])
    return step


def redraw(session: Session, look: Look) -> Screen:
    """Another map, step or opacity of what is on show: the model does not run."""
    session.look = look
    return show.looked_at(session)


def form_of(request: GenerationRequest) -> tuple[Form, str]:
    """The form of an earlier request, and a notice. A customization that was deleted meanwhile is said, and left out."""
    return _existing(Form.of_request(request), strings.CUSTOMIZATION_GONE)


def _existing(form: Form, words: str) -> tuple[Form, str]:
    """The form with the original model where its customization, or one of a mix, does not exist any more; `words` then say it."""
    missing = [name for name in catalog.named(form.customization) if name not in catalog.customizations(form.model)]
    if missing:
        gone = InvalidInput("customization", words.format(name=missing[0]))
        return replace(form, customization=""), markup.problem(gone)
    return form, ""


def left_out(request: GenerationRequest) -> list[str]:
    """The settings of a request that the form has no field for, by their names in the schema."""
    again = Form.of_request(request).request()
    return [name for name in type(request).model_fields if getattr(again, name) != getattr(request, name)]


def first_form(form: Form) -> Form:
    """What a new visitor finds: a customization that comes with the app, and its phrase."""
    name = catalog.preselected(form.model)
    return replace(form, customization=name, targets=tuple(map(Chip, catalog.phrases(name)[:1])))


def remembered(stored: Any) -> tuple[str | None, Form | None, str]:
    """Timeline, form and a notice out of what the browser kept; None for what is not there or has another shape.

    A customization that was deleted since, here or in another browser, is said.
    """
    if not isinstance(stored, dict):
        return None, None, ""
    key, values = stored.get("timeline"), stored.get("form")
    key = key if isinstance(key, str) and re.fullmatch(r"[0-9a-f]{32}", key) else None
    try:
        form = Form(**{**values, "targets": tuple(Chip(**chip) for chip in values["targets"])})
        return key, *_existing(form, strings.CUSTOMIZATION_GONE_HERE)
    except (TypeError, KeyError):
        return key, None, ""


def dice() -> str:
    """A seed to try; small enough to be read out."""
    return str(random.SystemRandom().randrange(2**32))


def targets_for(customization: str, chips: tuple[Chip, ...]) -> tuple[Chip, ...]:
    """The phrases to show after another customization was chosen: phrases that the user wrote are never touched."""
    known = catalog.phrases(customization)
    if known and {chip.text for chip in chips} <= catalog.taught_phrases():
        return (Chip(known[0]),)
    return chips


def _dropped_phrases(result: GenerationResult) -> str:
    """A sentence where the text encoder's window was too small for the base text; empty otherwise."""
    asked = Shown.of_request(result.request).phrases
    dropped = asked[len(result.prompt.phrases):]
    if not dropped:
        return ""
    return markup.problem(strings.PHRASES_DROPPED.format(phrases=", ".join(f"'{text}'" for text in dropped)))
