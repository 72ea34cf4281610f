"""The command line of models and exports: files appear, reports are JSON, bad input is one line and status 2."""

import json
import shutil

import huggingface_hub
import pytest

from spf import plan
from spf.backbones import checkpoints, source
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
    *((("export", "hat", "--format", form, "--out", f"/proc/{form}.safetensors"), "--out: /proc/")
      for form in ("delta", "lora", "single-file", "diffusers")),
    (("import", "gone.zip"), "path: gone.zip does not exist"),
    (("download", "nothing"), "model: 'nothing' is not known"),
    (("download", "published"), "nothing to download"),
    (("doctor", "--plan", "nothing"), "model: 'nothing' is not known"),
    (("doctor", "--plan", "published", "--batch", "0"), "--batch"),
    (("doctor", "--plan", "published", "--resolution", "99999999999999999999"), "--resolution"),
    (("doctor", "--plan", "./gone"), "gone does not exist"),
    (("doctor", "--plan", "someone/gone"), "'someone/gone' is not on this computer; get it with"),
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


@pytest.mark.parametrize("family", ["unet", "mmdit"])
def test_a_plan_is_the_same_wherever_the_model_lies(
        command_line, taught, preset, folders, tmp_path, spf_home, monkeypatch, family):
    """A folder, a single file and a hub id in the cache are planned for as the preset of that architecture is."""
    monkeypatch.setitem(source.PUBLISHED, family, folders[family])
    monkeypatch.setattr(plan, "ladder", lambda: [plan.Option(1, "full"), plan.Option(2, "cross", bf16=True)])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    shutil.copytree(folders[family], tmp_path / "copy")
    shutil.copytree(folders[family], tmp_path / "cache" / "models--someone--portraits" / "snapshots" / ("0" * 40))
    (tmp_path / "cache" / "models--someone--portraits" / "refs").mkdir()
    (tmp_path / "cache" / "models--someone--portraits" / "refs" / "main").write_text("0" * 40)
    export(Export("hat", "single-file", tmp_path / "model.safetensors"))
    expected = plan.plan(preset.model_copy(update={
        "clip": source.PUBLISHED_CLIP, "dtype": source._PUBLISHED_DTYPE[family]}), 2, 64)
    for where in (tmp_path / "copy", tmp_path / "model.safetensors", "someone/portraits"):
        status, out, err = command_line("doctor", "--plan", str(where), "--resolution", "64", "--json")
        assert status == 0 and json.loads(out) == expected | {"model": json.loads(out)["model"]}
    assert not (spf_home / "models").exists(), "a plan makes no model of the user's own"


def test_an_exported_folder_is_a_model_to_go_on_from(command_line, taught, preset, tmp_path):
    """What one person exports, another one opens by its path."""
    from spf.backbones.source import register_model

    export(Export("hat", "diffusers", tmp_path / "portraits"))
    made = register_model(str(tmp_path / "portraits"))
    assert made.family == "unet" and checkpoints.load_backbone(made)
