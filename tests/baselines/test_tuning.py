"""The search: equal budgets, a complete record, the best setting of each method."""

import json

import pytest

from spf.baselines.tuning import Trial, candidates, tune
from spf.errors import InvalidInput

SPACES = {"lora": {"stage1.learning_rate": [1e-4, 1e-3, 1e-2], "stage1.adapter.rank": [4, 16]},
          "standard": {"stage1.learning_rate": [1e-5, 1e-4, 1e-3, 1e-2]}}


def by_rate(method, settings):
    return -abs(settings["stage1.learning_rate"] - 1e-3)


def test_candidates_are_different_and_depend_on_the_seed_only():
    first, again, other = (candidates(SPACES["lora"], 4, seed) for seed in (1, 1, 2))
    assert first == again != other and len({tuple(settings.values()) for settings in first}) == 4
    assert len(candidates(SPACES["lora"], 100, 0)) == 6


def test_every_method_has_the_same_number_of_trials_and_the_best_wins(tmp_path):
    calls = []
    best = tune(SPACES, 4, lambda method, settings: calls.append(method) or by_rate(method, settings), tmp_path / "record.json")
    assert sorted(calls) == ["lora"] * 4 + ["standard"] * 4
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["budget"], len(record["trials"])) == (4, 8)
    for method, trial in best.items():
        assert trial.score == max(row["score"] for row in record["trials"] if row["method"] == method)
    assert best["standard"].settings == {"stage1.learning_rate": 1e-3}


def test_an_interrupted_search_goes_on(tmp_path):
    calls = []

    def score(method, settings):
        calls.append((method, tuple(settings.values())))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return by_rate(method, settings)

    with pytest.raises(KeyboardInterrupt):
        tune(SPACES, 2, score, tmp_path / "record.json")
    best = tune(SPACES, 2, score, tmp_path / "record.json")
    assert len(calls) == 5 and len(set(calls)) == 4, "only the interrupted trial is tried again"
    assert best == tune(SPACES, 2, lambda *_: pytest.fail("tried again"), tmp_path / "record.json")


def test_a_failed_trial_counts_and_says_why(tmp_path):
    def score(method, settings):
        if settings["stage1.learning_rate"] == 1e-2:
            raise RuntimeError("diverged")
        return float("nan") if settings["stage1.learning_rate"] == 1e-4 else 1.0

    best = tune({"standard": SPACES["standard"]}, 4, score, tmp_path / "record.json")
    trials = [Trial(**row) for row in json.loads((tmp_path / "record.json").read_text())["trials"]]
    problems = {trial.settings["stage1.learning_rate"]: trial.problem for trial in trials}
    assert problems == {1e-2: "RuntimeError: diverged", 1e-4: "the score is no number", 1e-3: "", 1e-5: ""}
    assert best["standard"].score == 1.0


@pytest.mark.parametrize("spaces, budget, message", [
    ({"lora": {"a": [1, 2]}}, 3, "space of 'lora' holds fewer than 3"), ({"lora": {"a": []}}, 1, "a value for every setting"),
    ({"lora": {"a": [1]}}, 0, "budget of at least 1")])
def test_budgets_that_cannot_be_equal_are_refused(tmp_path, spaces, budget, message):
    with pytest.raises(InvalidInput, match=message):
        tune(spaces, budget, lambda *_: 1.0, tmp_path / "record.json")


def test_a_method_without_any_score_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="no trial of 'lora' has a score"):
        tune({"lora": {"a": [1]}}, 1, lambda *_: 1 / 0, tmp_path / "record.json")


def test_a_damaged_record_is_not_overwritten(tmp_path):
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(InvalidInput, match="record.json is damaged"):
        tune(SPACES, 2, by_rate, tmp_path / "record.json")
    assert (tmp_path / "record.json").read_text() == "{"
