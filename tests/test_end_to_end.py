"""The whole way with each of the embedded models, as a user goes it: pictures, both stages, a pair with maps, export, reload."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from spf import config, library
from spf.backbones import checkpoints
from spf.method.phrases import join_prompt
from spf.training import preview

BASE, TARGET = "a portrait of a person, with tan skin, on a blue background", "a winter hat"
STAGE = ("max_train_steps=2", "train_batch_size=2")


@pytest.fixture
def run(command_line):
    """run(verb, ...): what a verb that succeeds prints as JSON."""
    def verb(*arguments: str) -> dict:
        status, out, errors = command_line(*arguments, "--json")
        assert status == 0, errors
        return json.loads(out)

    return verb


def pair(run, model, out, *more):
    """(original, customized, maps) of one seed."""
    run("generate", "--model", model, "--base", BASE, "--target", TARGET, "--seed", "3", "--steps", "3", "--map-steps", "2",
        "--out", str(out), *more)
    pictures = [np.asarray(Image.open(out / name), int) for name in ("original.png", "customized.png")]
    with np.load(out / "maps.npz") as maps:
        return *pictures, {name: maps[name] for name in ("timesteps", "soft_map", "sfcm", "phrase_maps", "gamma")}


def predicted(backbone):
    text = backbone.encode_prompts([join_prompt(BASE, [TARGET])])
    with torch.no_grad():
        return backbone.predict(torch.randn(1, *backbone.latent_shape(128), generator=torch.Generator().manual_seed(0)),
                                torch.tensor([300.0]), text)


@pytest.mark.parametrize("model", ["pocket", "pocket-dit"])
def test_the_whole_way(model, run, command_line, tmp_path, monkeypatch):
    monkeypatch.setattr(preview, "PREVIEW_STEPS", 1)
    monkeypatch.setattr(library, "SHIPPED", tmp_path / "shipped")
    assert command_line("dataset", "render", "--attribute", "winter-hat", "--count", "4", "--out", str(tmp_path / "hats"))[0] == 0
    settings = [f"{stage}.{value}" for stage in ("stage1", "stage2") for value in STAGE]
    trained = run("train", "--model", model, "--data", str(tmp_path / "hats"), "--name", "hat",
                  *(part for value in (*settings, "stage1.learning_rate=1e-3", "sample_every=100") for part in ("--set", value)))
    card = trained["customization"]
    assert (card["model"], card["phrases"], card["summary"]["stage1_steps"], card["summary"]["stage2_steps"]) == (
        model, [TARGET], 2, 2)

    original, customized, maps = pair(run, model, tmp_path / "taught", "--customization", "hat")
    plain = pair(run, model, tmp_path / "plain")
    assert np.array_equal(original, plain[0]), "the original is the original model's"
    assert np.abs(customized - plain[1]).max() > 0, "and the customized portrait is not"
    preset = config.model_preset(model)
    expected = checkpoints.load_backbone(preset)
    grid = expected.latent_shape(preset.resolution)[1:]
    assert maps["sfcm"].shape == maps["soft_map"].shape == (2, *grid) and len(maps["gamma"]) > 2
    assert all(np.isfinite(value).all() for value in maps.values()) and 0 <= maps["sfcm"].min() <= maps["sfcm"].max() <= 1
    assert maps["phrase_maps"].shape == (2, len(maps["gamma"]), *grid)

    on_top = run("train", "--model", model, "--data", str(tmp_path / "hats"), "--name", "more", "--initial-customization", "hat",
                 *(part for value in (*settings, "sample_every=100") for part in ("--set", value)))["customization"]
    assert on_top["summary"]["started_from"] == "hat" and on_top["model_sha256"] == card["model_sha256"], "the original's, still"
    mixed = pair(run, model, tmp_path / "mixed", "--customization", "hat:0.5", "--customization", "more:-0.5")
    assert np.array_equal(mixed[0], original) and np.abs(mixed[1] - customized).max() > 0

    checkpoints.apply(expected, checkpoints.customization("hat", preset).tensors())
    single = run("export", "hat", "--format", "single-file", "--out", str(tmp_path / "hat-single.safetensors"))
    assert single["bytes"] > 1e6 and "autoencoder" in single["left_out"][0], "a tiny one has no place in that layout"
    run("export", "hat", "--format", "diffusers", "--out", str(tmp_path / "folder"))
    folder = preset.model_copy(update={"pretrained_model_name_or_path": str(tmp_path / "folder")})
    torch.testing.assert_close(predicted(checkpoints.load_backbone(folder)), predicted(expected), atol=1e-4, rtol=1e-4)

    lora = run("export", "hat", "--format", "lora", "--lora-format", "diffusers", "--rank", "8", "--out",
               str(tmp_path / "hat.safetensors"))
    assert 0 < lora["reconstruction_error"] < 1
    run("export", "hat", "--format", "delta", "--out", str(tmp_path / "delta.safetensors"))
    library.discard("hat")
    assert run("import", str(tmp_path / "delta.safetensors"), "--name", "back")["customization"]["model"] == model
    again = pair(run, model, tmp_path / "again", "--customization", "back")
    assert np.array_equal(again[0], original) and np.abs(again[1] - customized).max() <= 3, "a delta is kept in half precision"
