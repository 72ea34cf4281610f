"""From nothing to a diffusers folder, on networks so small that they learn nothing."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from spf.backbones.checkpoints import load_backbone
from spf.clip import Clip
from spf.config import ModelPreset
from spf.errors import InvalidInput, TrainingError
from spf.method.phrases import join_prompt
from spf.pocket import parts, pictures, presets
from spf.pocket.pretrain import Pretraining

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("rendered_here")


def test_everything_from_nothing_to_a_folder_that_loads(config, tmp_path):
    training = Pretraining(config, tmp_path / "work", CPU, minutes=60)
    assert not training.complete
    assert training.run(("autoencoder",)) and not training.complete
    assert training.run() and training.complete
    training.export(tmp_path / "model")

    preset = ModelPreset(
        name="made", title="Made", family="unet", pretrained_model_name_or_path=str(tmp_path / "model"),
        clip=str(tmp_path / "model" / "clip"), resolution=64, base_text="a person")
    backbone, clip = load_backbone(preset), Clip.from_folder(tmp_path / "model" / "clip")
    assert backbone.latent_shape(64) == (4, 16, 16) and backbone.window == 77
    scale = backbone.vae.config.scaling_factor
    assert scale != 1 and np.isfinite(scale), "latents are brought to unit variance"

    # the text encoder is CLIP's text tower, trained on with the denoiser
    text = backbone.encode_prompts([join_prompt("a person, with red hair", ())])
    tokens = backbone.tokenizer(["a person, with red hair"], padding="max_length", return_tensors="pt")
    trained = training.denoiser().text_encoder(tokens.input_ids).last_hidden_state
    torch.testing.assert_close(text.embeddings, trained, rtol=2e-2, atol=5e-3)
    pooled = text.embeddings[0, tokens.attention_mask.sum() - 1] @ clip.model.text_projection
    close = torch.cosine_similarity(pooled, clip.embed_texts(["a person, with red hair"])[0], dim=0)
    assert 0.9 < close < 1, "one step from where it began"

    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model", local_files_only=True, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a person", num_inference_steps=1, height=64, width=64, output_type="np").images.shape == (1, 64, 64, 3)

    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert {part: facts["samples"] for part, facts in record["parts"].items()} == dict.fromkeys(Pretraining.PARTS, 4)
    assert [(point["part"], point["samples"]) for point in record["curve"]] == [(part, 4) for part in Pretraining.PARTS]
    psnr, *readings = record["curve"]
    assert -20 < psnr["psnr_db"] < 20, "it has learned nothing yet"
    assert all(0 <= point["mean"] <= 1 and point["expression"] <= 1 for point in readings)
    weights = (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    parameters = sum(parameter.numel() for parameter in backbone.denoiser.parameters())
    assert weights < 2.2 * parameters, "two bytes per number on disk"


def test_a_second_call_has_nothing_left_to_do(config, tmp_path, monkeypatch):
    for _ in range(2):
        training = Pretraining(config, tmp_path / "work", CPU, minutes=60)
        assert training.run(("autoencoder",))
        monkeypatch.setattr(Pretraining, "pictures", lambda self: pytest.fail("prepared again"))
    assert (tmp_path / "work" / "metrics.jsonl").read_text().count("\n") == 1


def test_without_time_nothing_is_trained(config, tmp_path):
    training = Pretraining(config, tmp_path / "work", CPU, minutes=0)
    assert not training.run(("autoencoder",))


def test_the_denoiser_sees_no_target(tmp_path):
    drawn = pictures.picture_set(tmp_path, seed=0, count=40, target_share=0.5, size=64)
    kept = drawn.without_targets()
    assert 10 < len(kept.portraits) < 30 and all(portrait.target is None for portrait in kept.portraits)
    for portrait, pixels in list(zip(kept.portraits, kept.pixels, strict=True))[:3]:
        assert np.array_equal(pixels, pictures._Draw(64)(portrait))


def test_a_rendered_set_is_read_back_and_not_drawn_again(tmp_path, monkeypatch):
    first = pictures.picture_set(tmp_path, seed=0, count=3, target_share=0.5, size=64)
    monkeypatch.setattr(pictures, "_render_all", lambda *args: pytest.fail("drawn again"))
    again = pictures.picture_set(tmp_path, seed=0, count=3, target_share=0.5, size=64)
    assert np.array_equal(first.pixels, again.pixels) and first.portraits == again.portraits


@pytest.mark.parametrize("preset, parts, field", [("sdxl", (), "preset"), ("pocket", ("nose",), "--part")])
def test_unknown_names_are_refused_before_anything_is_written(spf_home, preset, parts, field):
    with pytest.raises(InvalidInput, match="choose") as caught:
        presets.pretrain(preset, parts, 1, CPU)
    assert caught.value.field == field and not spf_home.exists()


@pytest.fixture(scope="module")
def exported(config, tmp_path_factory):
    """A model that was trained elsewhere: (its training, its folder)."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Pretraining, "scores", lambda self, part: {})
        folder = tmp_path_factory.mktemp("exported")
        training = Pretraining(config, folder / "work", CPU, minutes=60)
        training.run()
        training.export(folder / "model")
        return training, folder / "model"


def test_an_exported_model_is_gone_on_with_where_nothing_is_trained_yet(config, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(Pretraining, "scores", lambda self, part: {})
    first, folder = exported
    longer = config.model_copy(update={"denoiser": config.denoiser.model_copy(update={"samples": 8})})
    training = Pretraining(longer, tmp_path / "work", CPU, minutes=60)
    assert training.adopt(folder) and training.complete
    assert training.record()["parts"] == {part: {**seen, "of": 8 if part == "denoiser" else 4}
                                          for part, seen in first.record()["parts"].items()}
    for name, value in first.denoiser().state_dict().items():
        torch.testing.assert_close(training.denoiser().state_dict()[name], value, rtol=1e-3, atol=1e-3)
    before = training.autoencoder().state_dict()
    assert training.run() and training.record()["parts"]["denoiser"]["samples"] == 8
    after = training.autoencoder().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "what is finished stays"
    assert not training.adopt(folder), "its own checkpoints are further"
    assert training.record()["parts"]["denoiser"]["samples"] == 8


def test_the_curve_of_an_adopted_model_goes_on(config, exported, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(exported[1], folder)
    record = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps({**record, "curve": [{"part": "denoiser", "samples": 4, "mean": 0.5}]}))
    longer = config.model_copy(update={"denoiser": config.denoiser.model_copy(update={"samples": 8})})
    training = Pretraining(longer, tmp_path / "work", CPU, minutes=60)
    training.adopt(folder)
    monkeypatch.setattr(Pretraining, "scores", lambda self, part: {"mean": 0.75})
    training.run(("denoiser",))
    assert [(point["samples"], point["mean"]) for point in training.record()["curve"]] == [(4, 0.5), (8, 0.75)]


def test_what_a_tokenizer_has_read_does_not_change_what_is_exported(exported):
    training, folder = exported
    training.tokenizer(["a person"], padding="max_length", truncation=True)
    assert training.tokenizer.backend_tokenizer.padding, "reading leaves its mark"
    for place in ("tokenizer", "clip/tokenizer"):
        saved = json.loads((folder / place / "tokenizer.json").read_text())
        assert saved["padding"] is None and saved["truncation"] is None
        assert (folder / place / "tokenizer.json").read_bytes() == (training.folder / "tokenizer/tokenizer.json").read_bytes()


def test_only_who_asks_for_it_goes_on_from_what_is_exported(spf_home, monkeypatch):
    adopted = []
    monkeypatch.setattr(Pretraining, "adopt", lambda self, folder: adopted.append(folder.name))
    monkeypatch.setattr(Pretraining, "run", lambda self, parts: False)
    for adopt in (False, True):
        assert not presets.pretrain("pocket", (), 1, CPU, adopt)
    assert adopted == ["pocket"]


def test_words_of_an_adopted_model_keep_their_numbers(config, exported, tmp_path, monkeypatch):
    first, folder = exported
    monkeypatch.setattr("spf.pocket.tokenizer.caption_corpus", lambda seed, count: ["other words altogether"] * 50)
    training = Pretraining(config, tmp_path / "work", CPU, minutes=60)
    training.adopt(folder)
    for tokenizer in (training.tokenizer, Pretraining(config, tmp_path / "work", CPU, minutes=60).tokenizer):
        assert tokenizer("a person, with red hair").input_ids == first.tokenizer("a person, with red hair").input_ids


def test_what_was_exported_with_another_architecture_is_refused(config, exported, tmp_path):
    architecture = {**config.autoencoder.architecture, "decoder_block_out_channels": [16, 16, 16]}
    other = config.model_copy(update={"autoencoder": config.autoencoder.model_copy(update={"architecture": architecture})})
    training = Pretraining(other, tmp_path / "work", CPU, minutes=60)
    training.adopt(exported[1])
    with pytest.raises(TrainingError, match=r"autoencoder.pt does not fit the architecture that is configured \(size mismatch"):
        training.autoencoder()


def test_a_folder_without_a_model_cannot_be_adopted(config, tmp_path):
    with pytest.raises(TrainingError, match="holds no training.json.*begin without --adopt"):
        Pretraining(config, tmp_path / "work", CPU, minutes=60).adopt(tmp_path)


def test_a_preset_builds_on_what_is_in_assets_where_its_base_was_not_trained_here(config, exported, spf_home, monkeypatch):
    configs = presets.pretrain_config
    monkeypatch.setattr(presets, "pretrain_config", lambda name: config if name == "pocket" else configs(name))
    monkeypatch.setattr(presets, "_exported", lambda name: exported[1])
    base = presets.part_training("pocket-dit", CPU, 1).base
    assert base.complete and base.folder == spf_home / "pretrain" / "pocket-dit" / "base"
    assert not presets.part_training("pocket", CPU, 1).begun, "training the base from nothing still begins from nothing"
    (spf_home / "pretrain" / "pocket" / "autoencoder.pt").write_bytes(b"another one, trained later")
    assert presets.part_training("pocket-dit", CPU, 1).base.folder == base.folder, "what was trained on it stays on it"


def test_a_base_that_was_trained_here_comes_first(spf_home):
    folder = spf_home / "pretrain" / "pocket"
    folder.mkdir(parents=True)
    for part in ("autoencoder", "clip"):
        (folder / f"{part}.pt").write_bytes(b"weights")
    assert presets.part_training("pocket-dit", CPU, 1).base.folder == folder


def test_adopting_that_breaks_off_leaves_nothing_begun(config, exported, tmp_path, monkeypatch):
    written, begin_from = [], parts.begin_from

    def full(path, *rest):
        if written:
            raise TrainingError("the disk is full")
        written.append(begin_from(path, *rest))

    monkeypatch.setattr(parts, "begin_from", full)
    training = Pretraining(config, tmp_path / "work", CPU, minutes=60)
    with pytest.raises(TrainingError, match="full"):
        training.adopt(exported[1])
    assert written and not training.begun
    monkeypatch.undo()
    assert training.adopt(exported[1]) and training.complete


def test_every_preset_knows_its_own_parts(spf_home):
    for preset, part in (("pocket", "clip"), ("pocket-dit", "text_encoder_2"), ("recogniser", "recogniser")):
        with pytest.raises(InvalidInput, match=part):
            presets.pretrain(preset, ("nose",), 1, CPU)


def test_two_trainings_do_not_share_a_folder(config, tmp_path):
    command = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); input()"
    training = Pretraining(config, tmp_path / "work", CPU, minutes=60)
    with subprocess.Popen([sys.executable, "-c", command, tmp_path / "work" / ".training.lock"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TrainingError, match="work: another 'pretrain' trains here; wait until it ends, or stop it"):
            training.run(("autoencoder",))
        assert not training.begun
        other.communicate("\n")
    assert training.run(("autoencoder",)), "free again"
