"""Blind comparisons: order and sides by chance, answers that survive, and rates that are right."""

import csv
import io

import pytest

from spf.study import QUESTIONS, Pair, Score, Study

PAIRS = [Pair(f"original-{n}", f"first-{n}", f"second-{n}", "a hat") for n in range(12)]


@pytest.fixture
def study(tmp_path) -> Study:
    study = Study(tmp_path / "home" / "studio.sqlite")
    study.begin("one", ("spf", "plain"), PAIRS, seed=1)
    return study


def answers(choice: str) -> dict[str, str]:
    return dict.fromkeys(QUESTIONS, choice)


def test_sides_and_order_are_by_chance_and_stay_as_they_are(study):
    pairs = study.pairs("one")
    assert sorted(pair.original for pair in pairs) == sorted(pair.original for pair in PAIRS)
    assert [pair.original for pair in pairs] != [pair.original for pair in PAIRS]
    assert 0 < sum(pair.swapped for pair in pairs) < len(pairs)
    assert Study(study.path).pairs("one") == pairs
    assert all(pair.left.startswith("second") == pair.swapped for pair in pairs)


def test_a_session_goes_on_where_it_was_left(study):
    assert study.next("one") == 0
    study.answer("one", 0, answers("left"))
    assert Study(study.path).next("one") == 1
    for index in range(1, 12):
        study.answer("one", index, answers("tie"))
    assert study.next("one") is None


def test_whoever_wins_is_counted_whatever_the_side(study):
    for index, pair in enumerate(study.pairs("one")):
        study.answer("one", index, {**answers("right" if pair.swapped else "left"), "preference": "tie"})
    scores = {score.question: score for score in study.scores("one")}
    assert (scores["consistency"].wins, scores["consistency"].rate) == (12, 1.0)
    assert (scores["preference"].ties, scores["preference"].rate) == (12, 0.5)
    rows = list(csv.DictReader(io.StringIO(study.to_csv("one"))))
    assert len(rows) == 36 and {row["winner"] for row in rows} == {"spf", "tie"}
    assert {row["first_was"] for row in rows} == {"left", "right"}


def test_an_answer_given_again_replaces_the_first(study):
    study.answer("one", 0, answers("left"))
    study.answer("one", 0, answers("right"))
    assert all(score.answers == 1 for score in study.scores("one"))


@pytest.mark.parametrize("given", [
    {}, {"consistency": "left"}, dict.fromkeys(QUESTIONS, "both"), {**dict.fromkeys(QUESTIONS, "tie"), "x": "tie"}])
def test_half_an_answer_is_refused(study, given):
    with pytest.raises(ValueError, match="one of left, right, tie"):
        study.answer("one", 0, given)
    assert study.next("one") == 0


def test_unknown_sessions_and_pairs(study, tmp_path):
    for unknown in (lambda: study.pairs("two"), lambda: study.answer("one", 12, answers("tie")),
                    lambda: Study(tmp_path / "none.sqlite").pairs("one")):
        with pytest.raises(KeyError):
            unknown()
    assert Study(tmp_path / "none.sqlite").sessions() == [] and not (tmp_path / "none.sqlite").exists()


def test_the_interval_is_wilsons():
    low, high = Score("preference", 8, 2, 0).interval
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)  # published example of 8 of 10
    assert Score("preference", 0, 0, 0).interval == (0.0, 1.0)
    low, high = Score("preference", 10, 0, 0).interval
    assert round(low, 4) == 0.7225 and high == pytest.approx(1.0)
