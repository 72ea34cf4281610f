"""What the doctor finds, what it would download, and how much memory it predicts, against what is known or measured."""

import json
import os
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from spf import config, doctor, plan
from spf.backbones import sizes, source
from spf.backbones.checkpoints import load_backbone
from spf.clip import Clip
from spf.errors import InvalidInput, ModelNotFound
from spf.training.stages import FineTuneStage


def preset_file(tmp_path, **values) -> None:
    path = config.CONFIGS / "models" / "tiny.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


# --- what is found

def test_a_published_model_is_no_problem_and_says_how_much_there_is_to_download(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    preset_file(tmp_path, pretrained_model_name_or_path="someone/portraits", clip="ViT-L-14:openai")
    report = doctor.diagnose()
    assert report["models"] == {"tiny": "not downloaded: 6.0 GB; get it with 'python -m spf download tiny'"}
    assert not any("tiny" in problem for problem in report["problems"])


def test_a_damaged_or_foreign_model_is_a_problem(tiny, tmp_path, model_folder):
    preset_file(tmp_path, family="mmdit")
    (problem,) = [problem for problem in doctor.diagnose()["problems"] if "tiny" in problem]
    assert problem.startswith("model 'tiny': ") and "choose the preset of that family" in problem
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04pickle, honestly")
    preset_file(tmp_path, family="unet", pretrained_model_name_or_path=str(tmp_path / "model.safetensors"))
    assert any("pickle" in problem for problem in doctor.diagnose()["problems"])
    preset_file(tmp_path, pretrained_model_name_or_path=str(model_folder), clip="ViT-L-14:openai")
    assert any("'ViT-L-14:openai' is not on this computer" in problem for problem in doctor.diagnose()["problems"])


def test_published_sizes_are_those_of_the_published_models():
    sd15, sd35 = (sizes.parameter_counts(source.PUBLISHED[family]) for family in ("unet", "mmdit"))
    assert sd15 == {"text_encoder": 123_060_480, "unet": 859_520_964, "vae": 83_653_863}
    assert sd35["transformer"] == 2_243_171_520 and sd35["text_encoder_3"] == pytest.approx(4.76e9, rel=0.01)
    assert sd35["text_encoder_2"] == 694_659_840 and sd35["vae"] == pytest.approx(83.8e6, rel=0.01)


def test_the_report_is_written_for_a_person(tiny):
    report = doctor.diagnose() | {"customizations": ["hat", "cap"], "problems": ["Less than 2 GB of memory are free; close it."]}
    text = doctor.as_text(report)
    lines = text.splitlines()
    assert not set("{}[]") & set(text) and "Problems:\n  - Less than 2 GB" in text
    facts = [line for line in lines if line.startswith(("Python", "Device", "Memory", "Disk", "Your data", "Customizations"))]
    assert len(facts) == 6 and len({len(line) - len(line[15:].lstrip()) for line in facts}) == 1, "values below each other"
    assert "Customizations  hat, cap" in facts and "  tiny  found" in lines and any(line.startswith("  torch ") for line in lines)
    assert doctor.as_text(report | {"customizations": [], "problems": []}).endswith("No problems.")


def test_a_data_folder_that_cannot_be_written_is_a_problem(tiny, monkeypatch):
    monkeypatch.setenv("SPF_HOME", "/proc/gone")
    assert any("Nothing can be kept in /proc/gone" in problem for problem in doctor.diagnose()["problems"])


def test_a_published_architecture_is_held_in_what_its_preset_says(tmp_path):
    for family, name in (("unet", "sd15"), ("mmdit", "sd35-medium")):
        assert source._PUBLISHED_DTYPE[family] == config.model_preset(name).dtype
        assert source._is_published(source.PUBLISHED[family], family)
    assert not source._is_published(config.REPOSITORY / "assets" / "pocket", "unet")
    assert not source._is_published(config.REPOSITORY / "assets" / "pocket-dit", "mmdit")


def test_a_network_that_does_not_run_here_is_refused_in_words(tmp_path):
    for part, values in (("vae", {"_class_name": "AutoencoderDC"}), ("text_encoder", {"architectures": []})):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(values))
        with pytest.raises(ModelNotFound, match="does not run here"):
            sizes.parameter_counts(tmp_path)


def test_downloading_without_a_network_is_refused_in_words(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match="'someone/portraits' cannot be downloaded .*check the connection"):
        source.download(tiny.model_copy(update={"pretrained_model_name_or_path": "someone/portraits"}))
    with pytest.raises(ModelNotFound, match="nothing to download"):
        source.download(tiny)


# --- models of this user's own

def test_a_path_becomes_a_model_of_the_users_own_once(tiny, model_folder, tmp_path, spf_home):
    made = source.register_model(str(model_folder))
    assert made == tiny, "a place that has a preset keeps it"
    (tmp_path / "models").mkdir()
    shutil.copytree(model_folder, tmp_path / "models" / "My Portraits")
    made = source.register_model(str(tmp_path / "models" / "My Portraits"))
    assert made.name == "my-portraits" and made.family == "unet" and made.resolution == 64
    assert made.clip == str(tmp_path / "models" / "My Portraits" / "clip")
    assert list(config.model_presets()) == ["tiny", "my-portraits"] and config.model_preset("my-portraits") == made
    assert source.register_model(str(tmp_path / "models" / "My Portraits")) == made
    assert load_backbone(made)


@pytest.mark.parametrize("content", [None, b"\x80\x04 pickle", b"12345678"])
def test_what_is_no_model_is_never_registered(tiny, tmp_path, spf_home, content):
    path = tmp_path / "thing.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelNotFound, match="thing.safetensors"):
        source.register_model(str(path))
    assert list(config.model_presets()) == ["tiny"] and not spf_home.exists()


@pytest.mark.parametrize("where, words", [
    ("empty", "is no diffusers folder, which holds model_index.json and unet or transformer; give a diffusers folder"),
    ("files", "is no diffusers folder.* give the file itself, for example .*files/a.safetensors"),
    ("unet", "is one component of a diffusers folder; give the folder that holds it"),
    ("/dev/zero", "/dev/zero is neither a file nor a folder; give a diffusers folder"),
    ("model.ckpt", "model.ckpt does not exist"), ("odd.CKPT", "odd.CKPT is not a safetensors file, whatever its name says")])
def test_a_place_without_a_model_is_told_what_would_be_one(tiny, model_folder, tmp_path, monkeypatch, where, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.safetensors").write_bytes(b"")
    (tmp_path / "odd.CKPT").write_bytes(b"\x80\x02 a pickle")
    shutil.copytree(model_folder / "unet", tmp_path / "unet")
    assert source.names_place(where) == (where not in ("empty", "files", "unet")), "a bare word is the name of a preset"
    with pytest.raises(ModelNotFound, match=words):
        source.described(where)
    assert list(config.model_presets()) == ["tiny"]


def test_what_lacks_a_tensor_is_not_called_found(tiny, model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({name: value for name, value in tensors.items() if name != "conv_out.bias"}, weights)
    preset_file(tmp_path, pretrained_model_name_or_path=str(folder))
    report = doctor.diagnose()
    assert report["models"] == {"tiny": "missing"}
    assert any("lacks tensor 'conv_out.bias' of its unet" in problem for problem in report["problems"])


# --- what training would take

def live_bytes(preset, batch: int) -> int:
    """The same count over a real step of stage 1."""
    backbone, clip = load_backbone(preset), Clip.load(preset.clip)
    response = backbone.fork()
    for _, parameter in response.trainable_parameters("full"):
        parameter.requires_grad_(True)
    examples = plan.examples(response, clip, batch, preset.resolution)
    stage = FineTuneStage(response, examples.base[[0]])
    with plan.LiveBytes([*response.denoiser.parameters(), *response.denoiser.buffers()]) as counted:
        losses, _ = stage.training_forward(examples, torch.Generator())
        sum(losses.values()).backward()
    return counted.peak


def test_fake_tensors_live_and_die_like_real_ones(tiny):
    predicted = plan.predict(tiny, plan.Option(1, "full"), 4, tiny.resolution)["step"]
    assert predicted == pytest.approx(live_bytes(tiny, 4), rel=0.1)


LEAN = plan.Option(2, "cross", bf16=True, gradient_checkpointing=True, tiny_autoencoder=True, shared=True)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["pocket", "pocket-dit"])
def test_what_is_predicted_is_right_within_15_percent(model, tmp_path):
    """Against the resident memory of real steps of the embedded models; some minutes."""
    script, out = config.REPOSITORY / "benchmarks" / "memory.py", tmp_path / "report.json"
    done = subprocess.run([sys.executable, "-W", "ignore", str(script), "--model", model, "--batch", "16", "--out", str(out)],
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    errors = {row["option"]: row["error_percent"] for row in json.loads(out.read_text())["rows"]}
    assert len(errors) == 5 and all(abs(error) < 15 for error in errors.values()), errors


def test_every_option_is_tried_alone_and_with_all_others():
    assert plan.Option(1, "full") in plan.ladder() and LEAN in plan.ladder() and len(set(map(str, plan.ladder()))) == 13
    for alone in ("bf16", "gradient_checkpointing", "tiny_autoencoder", "shared", "reference_bf16"):
        assert plan.Option(2, "cross", **{alone: True}) in plan.ladder()


@pytest.mark.parametrize("family", ["unet", "mmdit"])
def test_every_option_saves_what_it_promises(family, tiny, monkeypatch):
    monkeypatch.setattr(plan, "ladder", lambda: [plan.Option(1, "full"), plan.Option(1, "cross"), LEAN])
    report = plan.plan(tiny, 2)
    peaks = {row["option"]: row for row in report["options"]}
    denoiser = next(count for name, count in report["parameters"].items() if name in ("unet", "transformer"))
    full, cross = peaks["stage 1, full trainable, fp32"], peaks["stage 1, cross trainable, fp32"]
    assert full["adam_gb"] == pytest.approx(8 * denoiser / 1e9, abs=1e-3) and cross["adam_gb"] < full["adam_gb"] / 2
    assert full["peak_gb"] >= full["adam_8bit_gb"] >= full["both_gb"] and full["offload_gb"] <= full["peak_gb"]
    assert "stage 2, cross trainable, bf16, gradient checkpointing, tiny autoencoder, one backbone" in peaks and len(peaks) == 3
    text = plan.as_text(report)
    rows = text.splitlines()[2:3 + len(peaks)]
    assert "8-bit Adam" in rows[0] and len(text.splitlines()) == len(peaks) + 6
    assert len(set(map(len, rows))) == 1, "figures stand below each other, however long an option's name is"


@pytest.mark.parametrize("family", ["unet", "mmdit"])
def test_what_waits_elsewhere_and_what_is_shared_is_counted_by_the_byte(family, tiny):
    counts = plan.parameter_counts(tiny)
    denoiser = next(counts.pop(name) for name in ("unet", "transformer") if name in counts)
    encoders = sum(count for name, count in counts.items() if name.startswith("text_encoder"))
    full, cross, second = (plan.predict(tiny, plan.Option(stage, trainable), 1, 64)
                           for stage, trainable in ((1, "full"), (1, "cross"), (2, "cross")))
    trained = cross["adam"] / 8
    assert full["weights"] == second["weights"] == 4 * (2 * denoiser + sum(counts.values()))
    assert cross["weights"] == 4 * (denoiser + trained + sum(counts.values())), "one backbone for both paths"
    assert full["idle"] == 4 * (denoiser + sum(counts.values())), "the reference waits too"
    assert cross["idle"] == 4 * sum(counts.values()) and second["idle"] == 4 * encoders


@pytest.mark.parametrize("family", ["unet", "mmdit"])
def test_one_backbone_and_a_reference_in_bf16_save_what_they_should_in_a_second_stage(family, tiny):
    counts = plan.parameter_counts(tiny)
    denoiser = next(counts[name] for name in ("unet", "transformer") if name in counts)
    second, shared, half = (plan.predict(tiny, plan.Option(2, "cross", **more), 4, 64)
                            for more in ({}, {"shared": True}, {"reference_bf16": True}))
    trained = second["adam"] / 8
    assert second["weights"] - shared["weights"] == 4 * (denoiser - trained)
    assert shared["adam"] == second["adam"] and shared["step"] == pytest.approx(second["step"], rel=0.1)
    assert half["weights"] == second["weights"] and half["step"] < second["step"], "the reference's features are half as long"


def test_more_pictures_and_no_checkpointing_hold_more(tiny):
    base = plan.Option(1, "full")
    small, large = (plan.predict(tiny, base, batch, 64)["step"] for batch in (2, 8))
    lean = plan.predict(tiny, plan.Option(1, "full", gradient_checkpointing=True), 8, 64)["step"]
    half = plan.predict(tiny, plan.Option(1, "full", bf16=True), 8, 64)["step"]
    assert small < large and lean < large and half < large


@pytest.mark.parametrize("batch, resolution, field", [(0, None, "--batch"), (10**6, None, "--batch"), (1, 63, "--resolution"),
                                                      (1, 100_000, "--resolution")])
def test_impossible_plans_are_refused(tiny, batch, resolution, field):
    with pytest.raises(InvalidInput, match=field):
        plan.plan(tiny, batch, resolution)
