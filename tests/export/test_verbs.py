"""The command line of models and exports: files appear, reports are JSON, bad input is one line and status 2."""

import json
import sys

import pytest

from spf import cli
from spf.backbones import checkpoints
from spf.export.outgoing import Export, export


@pytest.fixture
def spf(monkeypatch, capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spf", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def test_export_then_import_under_another_name(spf, taught, preset, tmp_path):
    out = tmp_path / "hat.safetensors"
    status, text, _ = spf("export", "hat", "--format", "delta", "--out", str(out), "--json")
    report = json.loads(text)
    assert status == 0 and report["out"] == str(out) and report["bytes"] == out.stat().st_size
    status, text, _ = spf("import", str(out), "--name", "cap")
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
def test_bad_input_is_one_line_and_status_2(spf, taught, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = spf(*arguments)
    assert (status, out) == (2, "") and err.splitlines()[-1].startswith("error: ") and words in err.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("verb", ["export", "import", "download"])
def test_every_verb_has_help(spf, verb):
    status, out, _ = spf(verb, "--help")
    assert status == 0 and "Usage" in out


def test_an_exported_folder_is_a_model_to_go_on_from(spf, taught, preset, tmp_path):
    """What one person exports, another one opens by its path."""
    from spf.backbones.source import register_model

    export(Export("hat", "diffusers", tmp_path / "portraits"))
    made = register_model(str(tmp_path / "portraits"))
    assert made.family == "unet" and checkpoints.load_backbone(made)
