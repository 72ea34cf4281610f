"""Evaluations are found by themselves and chosen by name."""

import pytest
from PIL import Image

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


@pytest.mark.parametrize(("line", "heading", "index"), [
    ("Ours", "Table 1: Comparison", 1), ("a winter hat", "By target: Ours", 1), ("Neon", "By target: Ours", 2),
    ("Ours", "By target: neon", 2), ("Ours", "Continuous", 0), ("", "", 1)])
def test_every_number_has_pictures_behind_it(line, heading, index):
    assert results_panel.behind(line, heading, ["continuous", "sheet-winter-hat", "sheet-neon"]) == index
    assert results_panel.behind(line, heading, []) is None


@pytest.mark.parametrize("name", [None, "", "../../etc", "mine: ../table1", "/etc/passwd"])
def test_only_what_is_in_the_list_is_read(evaluation, name):
    assert results_panel.table(name) == "" and results_panel.figures(name) == []
