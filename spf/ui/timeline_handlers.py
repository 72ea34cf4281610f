"""Undo, redo, going to a step, pinning one for comparison, and the chain as one picture. Plain functions."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from spf.config import model_preset
from spf.errors import InvalidInput, SpfError
from spf.generation.history import read_request, read_result
from spf.generation.timeline import path_to
from spf.ui import catalog, generate_handlers, markup, show, steps, strings, viewer
from spf.ui.generate_handlers import Form
from spf.ui.session import Session
from spf.ui.show import Screen


def undo(session: Session) -> tuple[Form | None, Screen]:
    return go(session, session.timeline.undo())


def redo(session: Session) -> tuple[Form | None, Screen]:
    return go(session, session.timeline.redo())


def go(session: Session, step: int | None) -> tuple[Form | None, Screen]:
    """Show a step and its form; nothing changes without one, and a step whose files are gone is said."""
    if step is None:
        return None, Screen()
    kept = show.load(session, step)
    if kept is None:
        return None, Screen(notice=markup.problem(strings.STEP_GONE))
    session.timeline.go(step)
    form, notice = generate_handlers.form_of(kept.result.request)
    return form, replace(show.result(session, kept), notice=notice)


def choose(session: Session, folder: str) -> tuple[Form | None, Screen]:
    """Go on with one pair of those drawn together with the step on show: a new step, which has the others, too."""
    together = session.timeline.pairs(session.timeline.current())
    chosen = next((pair for pair in together if str(pair.folder) == folder), None)
    if chosen is None or session.current is None or session.current.folder == catalog.outputs() / chosen.folder:
        return None, Screen()
    try:
        result = read_result(catalog.outputs() / chosen.folder)
    except InvalidInput:
        return None, Screen(notice=markup.problem(strings.STEP_GONE))
    step = session.timeline.add(chosen.folder, result.request)
    session.timeline.add_pairs(step, together)
    return go(session, step)


def reopen(session: Session, key: str) -> tuple[Form | None, Screen]:
    """Go on with the timeline that the browser remembers, at the step that was on show."""
    session.open(key)
    return go(session, session.timeline.current())


def pin(session: Session, step: int) -> Screen:
    """Compare with this step from now on, or with none where it was chosen already."""
    session.pinned = None if session.pinned == step else step
    return replace(show.looked_at(session), timeline=show.timeline(session))


def chain(session: Session) -> Screen:
    """The way from the first step to the one on show as one picture, which the browser then saves."""
    done = session.timeline.steps()
    by_id = {one.id: one for one in done}
    way = [(by_id[step], show.load(session, step)) for step in path_to(done, session.timeline.current())]
    found = [(step, kept) for step, kept in way if kept is not None]
    if not found:
        return Screen(notice=markup.problem(strings.STEP_GONE))
    pictures = [(found[0][1].result.original, strings.ORIGINAL)]
    before = None
    for step, kept in found:
        pictures.append((kept.result.customized, steps.change(before, step.request)))
        before = step.request
    path = catalog.outputs() / time.strftime("%Y-%m-%d") / f"chain-{time.strftime('%H%M%S')}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    steps.chain(pictures).save(path)
    return Screen(timeline=show.timeline(session, download=viewer.address(path)))


def dropped(path: str | None) -> tuple[Form | None, str]:
    """The form that a picture of ours was made with, and a notice."""
    if not path:
        return None, ""
    try:
        request = read_request(Path(path))
        model_preset(request.model)
    except SpfError as error:
        return None, markup.problem(error)
    form, gone = generate_handlers.form_of(request)
    lost = generate_handlers.left_out(request)
    words = strings.RESTORED_WITHOUT.format(fields=", ".join(lost)) if lost else strings.RESTORED
    return form, gone or markup.report(words)
