import json
import sys

import pytest
import yaml

from spf import cli
from spf.errors import InvalidInput
from spf.evaluation import choice


def result(floor=85.0, **rows):
    """A result with one table 'lora' whose rows have (untouched, response)."""
    columns = {row: {"untouched": {"value": kept}, "response": {"value": response}} for row, (kept, response) in rows.items()}
    return {"config": {"response_floor": floor, "tables": {"lora": {"title": "LoRA", "rows": list(rows)}},
                       "methods": {row: {"train": {"stage1.learning_rate": row}, "guide": None} for row in rows}},
            "rows": {row: {"title": row.title(), "columns": values} for row, values in columns.items()}}


@pytest.mark.parametrize("rows, chosen, reaches", [
    ({"a": (90.0, 84.9), "b": (70.0, 85.0), "c": (60.0, 99.0)}, "b", True),
    ({"a": (60.0, 99.0), "b": (70.0, 90.0), "c": (71.0, 86.0)}, "c", True),
    ({"a": (95.0, 10.0), "b": (70.0, 60.0), "c": (80.0, 59.0)}, "b", False),
    ({"a": (70.0, 90.0), "b": (70.0, 95.0)}, "a", True),  # of equal ones the first
    ({"a": (None, 99.0), "b": (50.0, 90.0)}, "b", True),
    ({"a": (99.0, None), "b": (50.0, 10.0)}, "b", False),
    ({"a": (None, 10.0), "b": (None, 20.0)}, "b", False)])
def test_preservation_decides_among_those_that_respond_and_else_response(rows, chosen, reaches):
    found = choice.choose(result(**rows))["lora"]
    assert (found.row, found.reaches_floor, found.tried) == (chosen, reaches, tuple(rows))
    assert found.settings == {"stage1.learning_rate": chosen} and found.response == rows[chosen][1]


def test_the_floor_is_that_of_the_evaluation():
    assert choice.choose(result(50.0, a=(90.0, 50.0), b=(70.0, 85.0)))["lora"].row == "a"


def test_nothing_measured_is_nothing_chosen():
    with pytest.raises(InvalidInput, match=r"tables\.lora: no row has a target response"):
        choice.choose(result(a=(90.0, None)))


def test_the_settings_of_a_guide_are_what_is_chosen():
    found = result(a=(90.0, 90.0))
    found["config"]["methods"]["a"] = {"train": None, "guide": {"name": "magnet", "strength": 0.5}}
    assert choice.choose(found)["lora"].settings == {"name": "magnet", "strength": 0.5}
    assert "a of 1 (name=magnet, strength=0.5); untouched 90.0 %, response 90.0 %" in choice.as_text(found)


def test_it_is_told_with_the_rule_and_what_falls_short():
    lines = choice.as_text(result(a=(90.0, 80.0), b=(None, 84.0))).splitlines()
    assert "at least 85 %" in lines[0]
    assert lines[1:] == ["lora: b of 2 (stage1.learning_rate=b); untouched not measured, response 84.0 %, "
                         "which no setting of it raised to the floor"]


def test_the_command_line_prints_what_was_measured_and_makes_nothing(spf_home, monkeypatch, capsys, tmp_path):
    path = tmp_path / "check.yaml"
    path.write_text(yaml.safe_dump({"name": "check", "methods": {"a": {"title": "A"}}, "tables": {}}))
    monkeypatch.setattr(sys, "argv", ["spf", "evaluate", str(path), "--chosen"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and "run the evaluation first" in capsys.readouterr().err and not spf_home.exists()
    folder = spf_home / "evaluation" / "check"
    folder.mkdir(parents=True)
    (folder / "table.json").write_text(json.dumps(result(a=(90.0, 90.0))))
    monkeypatch.setattr(sys, "argv", ["spf", "evaluate", str(path), "--chosen", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code and json.loads(capsys.readouterr().out)["lora"]["row"] == "a"
