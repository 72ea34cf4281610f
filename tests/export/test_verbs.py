"""The command line of models and exports: files appear, reports are JSON, bad input is one line and status 2."""

import json

import pytest

from spf.backbones import checkpoints
from spf.export.outgoing import Export, export


def test_export_then_import_under_another_name(command_line, taught, preset, tmp_path):
    out = tmp_path / "hat.safetensors"
    status, text, _ = command_line("export", "hat", "--format", "delta", "--out", str(out), "--json")
    report = json.loads(text)
    assert status == 0 and report["out"] == str(out) and report["bytes"] == out.stat().st_size
    status, text, _ = command_line("import", str(out), "--name", "cap")
    assert status == 0 and "'cap' for model 'published'" in text
    assert checkpoints.customization("cap", preset).card.phrases == ("a winter hat",)


@pytest.mark.parametrize("arguments, words", [
    (("export", "hat", "--format", "delta", "--out", "x.ckpt"), "--out"),
    (("export", "hat", "--format", "pickle", "--out", "x"), "--format"),
    (("export", "cap", "--format", "lora", "--out", "x.safetensors"), "'cap' does not exist"),
    (("import", "gone.zip"), "path: gone.zip does not exist"),
    (("download", "nothing"), "model: 'nothing' is not known"),
    (("download", "published"), "nothing to download"),
    (("doctor", "--plan", "nothing"), "model: 'nothing' is not known"),
    (("doctor", "--plan", "published", "--batch", "0"), "--batch"),
    (("generate", "--model", "./gone.safetensors", "--base", "a person", "--out", "out"), "gone.safetensors does not exist"),
    (("generate", "--model", "someone/gone", "--base", "a person", "--out", "out"), "'someone/gone' is not on this computer"),
])
def test_bad_input_is_one_line_and_status_2(command_line, taught, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = command_line(*arguments)
    assert (status, out) == (2, "") and err.splitlines()[-1].startswith("error: ") and words in err.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("verb", ["export", "import", "download"])
def test_every_verb_has_help(command_line, verb):
    status, out, _ = command_line(verb, "--help")
    assert status == 0 and "Usage" in out


def test_an_exported_folder_is_a_model_to_go_on_from(command_line, taught, preset, tmp_path):
    """What one person exports, another one opens by its path."""
    from spf.backbones.source import register_model

    export(Export("hat", "diffusers", tmp_path / "portraits"))
    made = register_model(str(tmp_path / "portraits"))
    assert made.family == "unet" and checkpoints.load_backbone(made)
