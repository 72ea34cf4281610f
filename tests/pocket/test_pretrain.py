"""From nothing to a diffusers folder, on networks so small that they learn nothing."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from spf.backbones.checkpoints import load_backbone
from spf.clip import Clip
from spf.config import ModelPreset
from spf.errors import InvalidInput
from spf.method.phrases import join_prompt
from spf.pocket import pictures, presets
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

    # the conditioning text encoder is CLIP's own text tower, after export too
    text = backbone.encode_prompts([join_prompt("a person, with red hair", ())])
    ids = backbone.tokenizer(["a person, with red hair"], return_tensors="pt").input_ids
    pooled = text.embeddings[0, ids.shape[1] - 1] @ clip.model.text_projection
    torch.testing.assert_close(pooled / pooled.norm(), clip.embed_texts(["a person, with red hair"])[0], rtol=2e-2, atol=5e-3)

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
