"""Evaluations are found by themselves and chosen by name."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from spf.evaluation.store import Store, key_of
from spf.ui import results_panel, strings


@pytest.fixture
def evaluation(spf_home, monkeypatch, tmp_path):
    monkeypatch.setattr(results_panel, "REPOSITORY", tmp_path / "repository")
    folder = spf_home / "evaluation" / "table1"
    (folder / "figures").mkdir(parents=True)
    (folder / "table.md").write_text("| method | FID |\n|---|---|\n| spf | 4.5 |\n![x](figures/pairs.png)\n")
    Image.new("RGB", (4000, 100)).save(folder / "figures" / "pairs.png")
    return f"{strings.RESULTS_MINE}: table1"


def test_tables_and_figures_are_found(evaluation):
    assert list(results_panel.evaluations()) == [evaluation]
    assert "| spf | 4.5 |" in results_panel.table(evaluation) and "pairs.png" not in results_panel.table(evaluation)
    [(figure, name)] = results_panel.figures(evaluation)
    assert name == "pairs" and figure.size == (1600, 40)


def test_a_heading_of_pictures_alone_is_left_out(evaluation, spf_home):
    (spf_home / "evaluation" / "table1" / "table.md").write_text(
        "# All\n\nwords\n\n## Numbers\n\n| a |\n\n## Sheet: neon\n\n![x](x.png)\n\n## Last\n\nmore\n")
    assert results_panel.table(evaluation) == "# All\n\nwords\n\n## Numbers\n\n| a |\n\n## Last\n\nmore\n"


def test_the_published_results_are_found(evaluation, tmp_path):
    docs = tmp_path / "repository" / "docs"
    (docs / "results").mkdir(parents=True)
    (docs / "results.md").write_text("| method |\n")
    (docs / "training.md").write_text("no results\n")
    Image.new("RGB", (8, 8)).save(docs / "results" / "sheet-neon.png")
    published = f"{strings.RESULTS_PUBLISHED}: results"
    assert list(results_panel.evaluations()) == [published, evaluation]
    assert [name for _, name in results_panel.figures(published)] == ["sheet-neon"]
    assert results_panel.pairs_behind(published, "Ours", "Table 1") == ("", [])


@pytest.mark.parametrize(("line", "heading", "index"), [
    ("Ours", "Table 1: Comparison", 1), ("a winter hat", "By target: Ours", 1), ("Neon", "By target: Ours", 2),
    ("Ours", "By target: neon", 2), ("Ours", "Continuous", 0), ("", "", 1)])
def test_every_number_has_pictures_behind_it(line, heading, index):
    assert results_panel.behind(line, heading, ["continuous", "sheet-winter-hat", "sheet-neon"]) == index
    assert results_panel.behind(line, heading, []) is None


@pytest.fixture
def pictures(evaluation, spf_home):
    """Two methods on two targets, three pairs each, in two pieces; every pair has a shade of its own."""
    folder = spf_home / "evaluation" / "table1"
    kept, index = Store(folder / "pictures"), {"rows": {}, "reconstruction": {}}
    for table, row, shade in (("rows", "Ours", 10), ("rows", "LoRA", 60), ("reconstruction", "Ours", 110)):
        for target in ("winter-hat", "neon"):
            index[table].setdefault(row, {})[target] = pieces = []
            for count in (2, 1):
                keys = [key_of(table=table, row=row, target=target, count=count, which=which) for which in range(2)]
                for key, color in zip(keys, (0, shade + (target == "neon")), strict=True):
                    kept.save(key, {"pixels": np.full((count, 8, 8, 3), color, np.uint8)})
                pieces.append([*keys, [f"{target} {count}"] * count])
    (folder / "pictures.json").write_text(json.dumps(index))
    return evaluation


@pytest.mark.parametrize(("line", "heading", "shades", "title"), [
    ("LoRA", "Table 1: Comparison", [60, 60, 60, 61, 61, 61], "LoRA · winter-hat, neon"),
    ("neon", "By target: Ours", [11, 11, 11], "Ours · neon"),
    ("Ours", "Base text alone, after customization (Fig. 13)", [110, 110, 110, 111, 111, 111], "Ours · winter-hat, neon")])
def test_a_number_has_the_pairs_of_its_method_and_target(pictures, line, heading, shades, title):
    words, found = results_panel.pairs_behind(pictures, line, heading)
    assert words == title and [picture.getpixel((12, 4))[0] for picture, _ in found] == shades
    assert all(picture.size == (16, 8) and picture.getpixel((2, 4)) == (0, 0, 0) for picture, _ in found)
    assert found[0][1].endswith(" 2") and found[2][1].endswith(" 1")


def test_many_pairs_are_shown_evenly_from_all_targets(pictures, monkeypatch):
    monkeypatch.setattr(results_panel, "PAIRS_SHOWN", 4)
    assert [text for _, text in results_panel.pairs_behind(pictures, "Ours", "Table 1")[1]] == [
        "winter-hat 2", "winter-hat 2", "neon 2", "neon 2"]


@pytest.mark.parametrize(("name", "line", "heading"), [
    (None, "Ours", "Table 1"), ("mine: ../table1", "Ours", "Table 1"), ("mine: table1", "Nobody", "Table 1"),
    ("mine: table1", "nothing", "By target: Ours")])
def test_what_is_no_line_of_a_method_or_target_has_no_pairs(pictures, name, line, heading):
    assert results_panel.pairs_behind(name, line, heading) == ("", [])


def test_pictures_that_are_gone_leave_the_figures(pictures, spf_home):
    shutil.rmtree(spf_home / "evaluation" / "table1" / "pictures")
    assert results_panel.pairs_behind(pictures, "Ours", "Table 1") == ("", [])


@pytest.mark.parametrize("name", [None, "", "../../etc", "mine: ../table1", "/etc/passwd"])
def test_only_what_is_in_the_list_is_read(evaluation, name):
    assert results_panel.table(name) == "" and results_panel.figures(name) == []
