"""`python -m spf evaluate`: exit status, one clear line for bad input, JSON that parses."""

import json
import sys

import pytest
import yaml

from spf import cli
from spf.evaluation import trained


@pytest.fixture
def spf(tiny, ruler, trainer, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(trained, "train_by_command", lambda values, library, device, lease: trainer(values, library))

    def run(values, *arguments):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(values))
        monkeypatch.setattr(sys, "argv", ["spf", "evaluate", str(path), "--device", "cpu", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def test_it_writes_its_tables_and_says_where(spf, values):
    status, out, _ = spf(values, "--set", "triples=1", "--json")
    found = json.loads(out)
    assert status == 0 and found["complete"]
    with open(found["table"], encoding="utf-8") as file:
        assert "## Table 1: Comparison" in file.read()


def test_a_shard_alone_says_that_others_are_missing(spf, values):
    values |= {"targets": ["winter-hat", "turban"], "triples": 1, "methods": {"none": {"title": "N"}}, "tables": {}}
    status, out, _ = spf(values, "--shard", "1/2")
    assert status == 0 and "others are not yet" in out


@pytest.mark.parametrize("changes, arguments, words", [
    ({"triples": 0}, (), "triples: "),
    ({"targets": ["beret"]}, (), "targets: 'beret' is not known"),
    ({"model": "other"}, (), "model: 'other' is not known"),
    ({"wrong": 1}, (), "wrong: is not a known setting"),
    ({"tables": {"1": {"title": "T", "rows": ["nobody"]}}}, (), "tables.1: 'nobody' is not among the methods"),
    ({"methods": {"a": {"title": "T"}, "b": {"title": "T"}}, "tables": {"1": {"title": "T", "rows": ["a", "b"]}}}, (),
     "tables.1: two rows have the title 'T'"),
    ({}, ("--shard", "3/2"), "--shard: "),
    ({}, ("--set", "triples"), "--set: "),
])
def test_bad_input_is_one_line_and_status_2(spf, spf_home, values, changes, arguments, words):
    status, _, err = spf({**values, **changes}, *arguments)
    assert status == 2 and err.startswith(f"error: {words}") and err.count("\n") == 1
    assert not (spf_home / "evaluation").exists()


def test_a_missing_file_is_named(spf, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["spf", "evaluate", "nowhere.yaml"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and "nowhere.yaml: does not exist" in capsys.readouterr().err
