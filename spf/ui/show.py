"""What a handler puts on the page: the pictures of a result, the sentence about its map, its scores and its place in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from spf.errors import InvalidInput
from spf.generation.history import read_result
from spf.generation.request import GenerationResult
from spf.ui import catalog, maps, markup, overlay, pairs, steps, strings
from spf.ui.session import Kept, Session, Shown
from spf.ui.viewer import Pane

WIDE = 0.33  # mean SFCM; a rough line: in a few pairs of the embedded targets styles lay above it, what has a place below


@dataclass(frozen=True, eq=False)
class Screen:
    """What changes on the page; a field that is None stays as it is."""

    panes: list[Pane] | None = None
    caption: str | None = None
    status: str | None = None
    notice: str | None = None
    busy: bool | None = None
    map_choices: list[tuple[str, str]] | None = None
    map_key: str | None = None
    map_step: int | None = None
    map_count: int | None = None  # how many steps drew maps
    timeline: dict[str, Any] | None = None
    pairs: dict[str, Any] | None = None

    def pane(self, name: str) -> Pane | None:
        return next((pane for pane in self.panes or [] if pane.name == name), None)


def result(session: Session, kept: Kept) -> Screen:
    """Put a finished result on the page, with the map and the opacity that are chosen."""
    session.current, session.shown = kept, (shown := Shown.of_result(kept.result))
    look = session.look
    session.look = type(look)(maps.available(shown, look.map), look.mean, min(look.step, max(len(shown.maps), 1)),
                              look.opacity)
    seen = looked_at(session)
    return Screen(seen.panes, seen.caption, markup.metrics(kept.result) + _wide(kept.result), map_choices=maps.choices(shown),
                  map_key=session.look.map, map_step=session.look.step, map_count=len(shown.maps),
                  timeline=timeline(session), pairs=seeds(session, kept))


def _wide(result: GenerationResult) -> str:
    """A word on a style that the held original cuts off."""
    share = result.metrics.get("sfcm_mean", 0.0)
    return markup.quiet(strings.HELD_WIDE.format(share=share)) if result.request.hold and share > WIDE else ""


def looked_at(session: Session) -> Screen:
    """Pictures and caption of what is on show, with the map as it is looked at now."""
    if session.shown is None:
        return Screen(caption=markup.caption(strings.MAP_BEFORE))
    drawn = maps.draw(session.shown, session.look)
    return Screen(panes(session, drawn.picture), markup.caption(drawn.caption, drawn.usable))


def panes(session: Session, drawn: Image.Image | None) -> list[Pane]:
    """Every picture that can be looked at now, in the order of the choice. Growing ones have no comparisons yet."""
    shown, kept = session.shown, session.current
    pictures = [kept.picture(name) if kept else getattr(shown, name) for name in ("original", "customized")]
    found = [Pane(name, title, picture, passing=kept is None) for name, title, picture in (
        ("original", strings.ORIGINAL, pictures[0]), ("customized", strings.CUSTOMIZED, pictures[1]),
        ("overlay", strings.OVERLAY, drawn))]
    if kept is not None:
        if session.compared is None or session.compared[:2] != (kept, session.pinned):  # another map or opacity changes none
            session.compared = kept, session.pinned, _comparisons(session, kept)
        found += session.compared[2]
    return [pane for pane in found if pane.picture is not None]


def _comparisons(session: Session, kept: Kept) -> list[Pane]:
    found, done = [], session.timeline.steps() if kept.step is not None else []
    parent = {step.id: step.parent for step in done}.get(kept.step)
    if parent is not None and (before := load(session, parent)) is not None and _same_size(before, kept):
        number = steps.number_of(done, parent)
        found.append(Pane("change", strings.CHANGE.format(step=number),
                          overlay.changes(before.result.customized, kept.result.customized), strings.CHANGE_NOTE))
    if kept.result.maps:
        picture = overlay.pollution(kept.result.original, kept.result.customized, kept.result.mean_map("sfcm"))
        found.append(Pane("pollution", strings.POLLUTION, picture, strings.POLLUTION_NOTE))
    if session.pinned is not None and (pinned := load(session, session.pinned)) is not None:
        number = steps.number_of(session.timeline.steps(), session.pinned)
        found.append(Pane("pinned", strings.PINNED_PANE.format(step=number), pinned.picture("customized"),
                          steps.summary(pinned.result.request)))
    return found


def _same_size(one: Kept, other: Kept) -> bool:
    return one.result.customized.size == other.result.customized.size


def load(session: Session, step: int) -> Kept | None:
    """A step's result from disk; None if its files are gone or damaged, or it is no step of this session."""
    if session.current is not None and session.current.step == step:
        return session.current
    found = next((one for one in session.timeline.steps() if one.id == step), None)
    if found is None:
        return None
    folder = catalog.outputs() / found.folder
    try:
        return Kept(read_result(folder), folder, step)
    except InvalidInput:
        return None


def seeds(session: Session, kept: Kept) -> dict[str, Any]:
    """The value of the grid of pairs: every seed that was drawn together with `kept`."""
    return pairs.value(session.timeline.pairs(kept.step), kept.folder, catalog.outputs())


def timeline(session: Session, download: str | None = None) -> dict[str, Any]:
    """The value of the timeline component."""
    line = session.timeline
    return steps.value(line.steps(), line.current(), session.pinned, catalog.outputs(), line.undo() is not None,
                       line.redo() is not None, download)
