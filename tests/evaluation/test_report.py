import json

import pytest

from spf.backbones import checkpoints
from spf.evaluation import continuous, publish, report, tables
from spf.metrics.base import Metric


def summary(value, low=None, high=None, excluded=None, note=""):
    return {"value": value, "low": low, "high": high, "pairs": 10, "excluded": excluded or {}, "note": note}


METRICS = [Metric("lpips", "LPIPS", "down", None), Metric("id", "ID", "up", None), Metric("response", "Response", "up", None)]
ROWS = {
    "weak": {"lpips": summary(0.1, 0.05, 0.15), "id": summary(0.9, 0.85, 0.95), "response": summary(20.0)},
    "best": {"lpips": summary(0.2, 0.18, 0.22), "id": summary(0.7, 0.65, 0.75), "response": summary(95.0)},
    "next": {"lpips": summary(0.3, 0.25, 0.35), "id": summary(0.6, 0.5, 0.7), "response": summary(90.0)},
}


def test_only_rows_that_respond_are_ranked_and_clearly_means_intervals_apart():
    found = report.ranking(ROWS, 85, METRICS)
    assert found["ranked"] == ["best", "next"] and found["left_out"] == ["weak"]
    assert found["columns"] == {"lpips": {"first": "best", "second": "next", "clear": True},
                                "id": {"first": "best", "second": "next", "clear": False}}


def test_a_column_without_numbers_and_a_single_row_are_no_contest():
    rows = {"a": {"lpips": summary(None, note="needs 9 pairs"), "id": summary(0.5), "response": summary(90.0)}}
    assert report.ranking(rows, 85, METRICS)["columns"] == {"id": {"first": "a", "second": None, "clear": None}}
    none = {"a": {**rows["a"], "response": summary(None)}}
    assert report.ranking(none, 85, METRICS)["ranked"] == []


@pytest.fixture
def values():
    about = [{"key": m.key, "title": m.title, "better": m.better, "extractor": "ruler"} for m in METRICS]
    rows = {row: {"title": row.title(), "columns": dict(columns)} for row, columns in ROWS.items()}
    return {"metrics": about, "rows": rows, "unavailable": {"fid": "FID: x.pth does not exist."},
            "ranking": report.ranking(ROWS, 85, METRICS)}


def test_a_table_shows_intervals_and_the_best_of_the_rows_that_respond(values):
    lines = tables.table(values, ["weak", "best", "next"], ("lpips", "id", "fid")).split("\n")
    assert lines[0] == "| Method | LPIPS ↓ | ID ↑ | fid (not available) |" and lines[1] == "|---|---|---|---|"
    assert lines[2] == "| Weak | 0.100 (0.050 to 0.150) | 0.900 (0.850 to 0.950) | n/a |"
    assert lines[3] == "| Best | **0.200** (0.180 to 0.220) | **0.700** (0.650 to 0.750) | n/a |"


def test_what_was_not_measured_is_named_counted_and_never_a_zero(values):
    values["rows"]["best"]["columns"]["id"] = summary(0.7, 0.6, 0.8, {"no face in the original": 3})
    values["rows"]["next"]["columns"]["id"] = summary(None, note="needs 5 pairs and has 2")
    lines = tables.table(values, ["best", "next"], ("id",)).split("\n")
    assert "[10 pairs]" in lines[2] and lines[3] == "| Next | n/a (needs 5 pairs and has 2) |"
    assert tables.notes(values, ["best", "next"], ("id", "fid")) == [
        "- Not available: FID: x.pth does not exist.",
        "- ID, Best: 3 pairs not measured, no face in the original."]


def test_the_ranking_is_told_in_words(values):
    text = tables.ranking(values)
    assert "Below it, and not ranked: Weak." in text and "- LPIPS: Best, before Next (intervals apart)" in text
    assert "- ID: Best, before Next (intervals overlap)" in text and text.endswith("First places: Best 2.")


def test_the_whole_report_of_a_run(make, trainer):
    study = {"row": "spf", "targets": ["winter-hat"], "values": {"method.lambda_fine": [0.4]}}
    strip = {"row": "standard", "steps": [["winter-hat"], ["winter-hat", "turban"], ["winter-hat"]], "seeds": 2}
    evaluation = make(reconstruction=["spf"], by_target=["spf"], sensitivity=study, continuous=strip)
    evaluation.run()
    page = publish.write(evaluation)
    text, folder = page.read_text(), evaluation.folder
    for title in ("## Table 1: Comparison", "## Who preserves best", "## By target: Ours", "Fig. 13", "Fig. 7a", "Fig. 14",
                  "3. a winter hat", "2. a winter hat, a turban", "n/a (needs 7 pairs and has 3)"):
        assert title in text
    linked = [line.split("(")[-1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert sorted(linked) == sorted(f"figures/{path.name}" for path in (folder / "figures").iterdir()) and len(linked) == 4
    found = json.loads((folder / "table.json").read_text())
    assert found["minutes"]["training"] == len(trainer.calls) - 1  # a minute each; of the joint one only pictures are shown
    weights = checkpoints.denoiser_hash(evaluation.preset)
    assert found["made_with"]["model_sha256"] == weights and weights[:12] in text
    assert found["rows"]["spf"]["columns"]["lpips"]["pairs"] == 3 and (folder / "table-1.md").exists()
    assert f"{found['config']['pictures']} training pictures per target" in text and "nothing trained" not in text
    assert not list(folder.glob(".*.partial"))


def test_a_report_of_rows_that_train_nothing_speaks_of_no_training_pictures(make):
    tables_ = {"1": {"title": "Comparison", "rows": ["original"]}}
    evaluation = make(triples=1, methods={"original": {"title": "Nothing taught"}}, tables=tables_)
    evaluation.run()
    text = publish.write(evaluation).read_text()
    assert "nothing trained" in text and "training pictures" not in text


def test_a_row_that_others_only_start_from_is_trained_and_timed_but_never_drawn(make, trainer):
    evaluation = make(tables={"1": {"title": "Comparison", "rows": ["spf"]}})
    assert evaluation.run() and [values["stage"] for values in trainer.calls] == ["1", "2"]
    found = json.loads((publish.write(evaluation).parent / "table.json").read_text())
    assert list(found["rows"]) == ["spf"] and found["minutes"]["training"] == len(trainer.calls) == 2
    assert len(list(evaluation.pictures.folder.glob("*/*.npz"))) == 2 * len(evaluation.pieces("winter-hat"))  # and the originals


def test_a_strip_is_drawn_as_its_row_samples(make):
    steps = {"steps": [["winter-hat"]], "seeds": 2}
    methods = make().config.model_dump(mode="json")["methods"]
    methods["held"] = {"title": "Held", "start": "standard", "hold": {"gain": 6.0}}
    strips = {row: continuous.strips(make(methods=methods, continuous={"row": row, **steps}))[0].tobytes()
              for row in ("standard", "held")}
    assert strips["standard"] != strips["held"]


def test_the_pictures_behind_every_row_and_target_are_found(make):
    evaluation = make(triples=1)
    assert evaluation.run()
    index = json.loads((publish.write(evaluation).parent / "pictures.json").read_text())
    assert set(index["rows"]) == {method.title for method in evaluation.config.methods.values()}
    for targets in (*index["rows"].values(), *index["reconstruction"].values()):
        assert list(targets) == list(evaluation.targets)
        for original, customized, texts in (piece for pieces in targets.values() for piece in pieces):
            assert len(evaluation.pictures.load(original)["pixels"]) == len(texts)
            assert len(evaluation.pictures.load(customized)["pixels"]) == len(texts)


def test_results_are_published_with_their_figures(make, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "REPOSITORY", tmp_path)
    evaluation = make(publish="docs/results.md", triples=1)
    evaluation.run()
    publish.write(evaluation)
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "(results/sheet-winter-hat.png)" in text and (tmp_path / "docs" / "results" / "sheet-winter-hat.png").exists()
