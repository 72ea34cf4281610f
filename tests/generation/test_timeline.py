"""A timeline is a tree on disk: undo, redo and branches survive a restart, and two timelines know nothing of one another."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spf.config import GenerationRequest, HoldConfig
from spf.generation.timeline import SeedPair, Step, Timeline, lanes, path_to

REQUEST = GenerationRequest(base_text="a person", target_texts=("a hat",), target_weights=(0.5,))


@pytest.fixture
def database(tmp_path) -> Path:
    return tmp_path / "home" / "studio.sqlite"


@pytest.fixture
def timeline(database) -> Timeline:
    return Timeline(database, "mine")


def test_pairs_of_a_step_keep_their_order_and_come_once(timeline, database):
    assert timeline.pairs(None) == [] and timeline.pairs(1) == []
    first, second = grow(timeline, 2)
    pairs = [SeedPair(2**63 - 1, Path("day/0")), SeedPair(0, Path("day/9"))]
    for _ in range(2):
        timeline.add_pairs(first, pairs)
    assert Timeline(database, "other").pairs(first) == pairs and timeline.pairs(second) == []


def grow(timeline: Timeline, count: int) -> list[int]:
    return [timeline.add(Path(f"day/{number}"), REQUEST) for number in range(count)]


def test_an_unused_timeline_writes_nothing(timeline, database):
    assert timeline.steps() == [] and timeline.current() is None and timeline.undo() is None and timeline.redo() is None
    assert not database.parent.exists()


def test_steps_are_found_again_after_a_restart(timeline, database):
    first, second = grow(timeline, 2)
    again = Timeline(database, "mine")
    assert [(step.id, step.parent, step.folder, step.request) for step in again.steps()] == [
        (first, None, Path("day/0"), REQUEST), (second, first, Path("day/1"), REQUEST)]
    assert again.current() == second


def test_a_step_from_before_holding_had_more_settings_drew_without_them(timeline, database):
    timeline.add(Path("day/0"), REQUEST.model_copy(update={"hold": HoldConfig()}))
    with sqlite3.connect(database) as db:
        db.execute("UPDATE timeline_steps SET request = json_remove(request, '$.hold.start', '$.hold.floor', '$.hold.heal')")
    assert timeline.steps()[0].request.hold == HoldConfig(start=0, floor=0, heal=1)


def test_undo_and_redo_walk_the_same_way(timeline):
    one, two, three = grow(timeline, 3)
    timeline.go(timeline.undo())
    timeline.go(timeline.undo())
    assert timeline.current() == one and timeline.undo() is None
    timeline.go(timeline.redo())
    timeline.go(timeline.redo())
    assert timeline.current() == three and timeline.redo() is None


def test_a_change_after_undo_branches_and_redo_follows_the_new_branch(timeline):
    one, two, three = grow(timeline, 3)
    timeline.go(one)
    four = timeline.add(Path("day/4"), REQUEST)
    assert path_to(timeline.steps(), four) == [one, four]
    timeline.go(one)
    assert timeline.redo() == four
    timeline.go(three)
    assert timeline.redo() is None and timeline.undo() == two
    assert lanes(timeline.steps()) == {one: (0, 0), two: (0, 1), three: (0, 2), four: (1, 1)}


def test_timelines_are_apart(timeline, database):
    grow(timeline, 2)
    other = Timeline(database, "other")
    assert other.steps() == [] and other.undo() is None
    with pytest.raises(KeyError):
        other.go(timeline.current())


def test_a_database_that_cannot_be_used_is_an_oserror(database):
    database.parent.mkdir()
    database.write_bytes(b"not a database" * 100)
    with pytest.raises(OSError, match=r"studio\.sqlite"):
        Timeline(database, "mine").steps()


def test_two_pages_of_one_timeline_lose_no_step(timeline, database):
    other = Timeline(database, "mine")
    for _ in range(3):
        grow(timeline, 1)
        grow(other, 1)
    assert len(timeline.steps()) == 6
    with sqlite3.connect(database) as db:
        assert db.execute("SELECT COUNT(*) FROM timeline_positions").fetchone() == (1,)


@given(st.lists(st.integers(0, 30), max_size=30))
def test_every_step_has_a_place_of_its_own_after_its_parent(choices):
    steps = [Step(number, choice % number if number and choice else None, Path(), REQUEST)
             for number, choice in enumerate(choices)]
    places = lanes(steps)
    assert len(set(places.values())) == len(steps) == len(places)
    for step in steps:
        column = places[step.id][1]
        assert column == (0 if step.parent is None else places[step.parent][1] + 1)
