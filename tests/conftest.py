"""Tiny seeded models with random weights: they prove shapes, gradients and plumbing, never quality."""

# ruff: noqa: I001  (spf comes first: it lets torchvision import on a CPU build of torch)
import copy
import dataclasses
import json
import os
import sys

import spf  # noqa: F401

import open_clip
import pytest
import torch
import yaml
from diffusers import (
    AutoencoderTiny, DDIMScheduler, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, UNet2DConditionModel)
from hypothesis import settings
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer)

from spf import cli, config
from spf.backbones.base import Backbone
from spf.backbones.mmdit import MMDiTBackbone
from spf.backbones.unet import UNetBackbone
from spf.clip import Clip, _ClipTokens
from spf.pocket import tokenizer as pocket_tokenizer
from spf.pocket.dataset import render_folder

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
torch.set_num_threads(1)  # the tensors here are tiny: a second thread only costs
settings.register_profile("spf", settings(), deadline=None)  # the machine may be busy
settings.load_profile("spf")

RESOLUTION = 32  # pixels; latents are 8x8
_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "width": 32, "heads": 2, "layers": 1},
}
_STAGE = {"learning_rate": 1e-3, "train_batch_size": 2, "num_train_epochs": 1, "max_train_steps": 2}


@pytest.fixture(autouse=True)
def spf_home(tmp_path, monkeypatch):
    """Every test has a data folder of its own."""
    monkeypatch.setenv("SPF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def tokenizer():
    return pocket_tokenizer.train_tokenizer(pocket_tokenizer.caption_corpus(0, 200), 700)


@pytest.fixture(scope="session")
def tokenizer_3() -> T5Tokenizer:
    """Words of the captions, one of them with its comma, and letters."""
    words = "a person portrait with red hair hair, winter hat turban".split()
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("\u2581", -2.0), *(("\u2581" + word, -3.0) for word in words),
              *((chr(code), -10.0) for code in (*range(33, 127), *range(161, 384)))]
    return T5Tokenizer(vocab=pieces, model_max_length=64, extra_ids=0)


def _text_config(tokenizer, width: int, **keywords) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, **keywords)


def _autoencoder() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1), latent_channels=4)


@pytest.fixture(scope="session")
def _unet(tokenizer) -> UNetBackbone:
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(_text_config(tokenizer, 32))
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), attention_head_dim=(2, 4),
        layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=32, norm_num_groups=8)
    vae = _autoencoder()
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1, timestep_spacing="trailing")
    return UNetBackbone(tokenizer, text_encoder, unet, vae, scheduler)


@pytest.fixture(scope="session")
def _mmdit(tokenizer, tokenizer_3) -> MMDiTBackbone:
    """With everything that Stable Diffusion 3.5 medium has: dual attention in some blocks, normalised queries, T5."""
    torch.manual_seed(3)
    towers = [CLIPTextModelWithProjection(_text_config(tokenizer, width, projection_dim=width)) for width in (16, 8)]
    t5 = T5EncoderModel(T5Config(
        vocab_size=len(tokenizer_3), d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0, eos_token_id=1))
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=24, pos_embed_max_size=24,
        dual_attention_layers=(0,), qk_norm="rms_norm")
    return MMDiTBackbone(tokenizer, towers[0], tokenizer, towers[1], tokenizer_3, t5, transformer, _autoencoder(),
                         FlowMatchEulerDiscreteScheduler(shift=3.0))


FAMILIES = ("unet", "mmdit")


@pytest.fixture
def family() -> str:
    """Which family `backbone`, `response` and `tiny` are of; a test of both parametrizes it."""
    return "unet"


@pytest.fixture(scope="session")
def _made(request):
    return lambda family: request.getfixturevalue(f"_{family}")


@pytest.fixture
def backbone(family, _made) -> Backbone:
    """A copy, which the test may change."""
    made = _made(family)
    fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    return type(made)(**{name: copy.deepcopy(part) if isinstance(part, torch.nn.Module) else part
                         for name, part in fields.items()})


@pytest.fixture
def response(backbone) -> Backbone:
    """`backbone` as a training run would leave it: other weights in its cross-attention, everything else shared."""
    forked, generator = backbone.fork(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in forked.trainable_parameters("cross"):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return forked


@pytest.fixture(scope="session")
def _clip_network(tokenizer) -> open_clip.CLIP:
    torch.manual_seed(1)
    return open_clip.CLIP(**_CLIP | {"text_cfg": {**_CLIP["text_cfg"], "vocab_size": len(tokenizer)}})


@pytest.fixture
def clip(tokenizer, _clip_network) -> Clip:
    return Clip(copy.deepcopy(_clip_network), _ClipTokens(tokenizer), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="session")
def _folders(tmp_path_factory, tokenizer, _made, _clip_network):
    """By family."""
    return {family: _save(_made(family), tokenizer, _clip_network, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture
def model_folder(family, _folders):
    """The tiny models on disk, as a preset points to them: a diffusers folder with an open_clip folder in it. Read-only."""
    return _folders[family]


def _save(backbone, tokenizer, _clip_network, folder):
    names = {"denoiser": "unet" if isinstance(backbone, UNetBackbone) else "transformer"}
    for field in dataclasses.fields(backbone):
        getattr(backbone, field.name).save_pretrained(folder / names.get(field.name, field.name))
    tokenizer.save_pretrained(folder / "clip" / "tokenizer")
    text = {**_CLIP["text_cfg"], "vocab_size": len(tokenizer), "hf_tokenizer_name": "tokenizer"}
    save_file(_clip_network.state_dict(), folder / "clip" / "open_clip_model.safetensors")
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps({
        "model_cfg": {**_CLIP, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}}))
    return folder


@pytest.fixture
def tiny(family, model_folder, tmp_path, monkeypatch) -> config.ModelPreset:
    """The only model and the only training preset that exist in the test, both called 'tiny'."""
    model = {
        "name": "tiny", "title": "Tiny", "family": family, "pretrained_model_name_or_path": str(model_folder),
        "clip": str(model_folder / "clip"), "resolution": 64, "num_inference_steps": 3, "guidance_scale": 3.0,
        "base_text": "a portrait of a person"}
    training = {
        "model": "tiny", "data": "none", "name": "none", "sample_every": 100,
        "stage1": {**_STAGE, "trainable": "full"}, "stage2": {**_STAGE, "trainable": "cross"}}
    for kind, values in (("models", model), ("training", training)):
        (tmp_path / "configs" / kind).mkdir(parents=True)
        (tmp_path / "configs" / kind / "tiny.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(config, "CONFIGS", tmp_path / "configs")
    return config.model_preset("tiny")


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory):
    """Four pictures of the target 'a winter hat', 64x64. Read-only."""
    return render_folder("winter-hat", 4, tmp_path_factory.mktemp("pictures") / "hats", size=64)


@pytest.fixture
def command_line(monkeypatch, capsys):
    """command_line("generate", ...): (exit status, standard output, standard error) of the verbs, in this process."""
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spf", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def mps_architecture() -> dict:
    """A CLIP configuration of a few hundred weights for the MPS network."""
    return {
        "projection_dim": 16,
        "text_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                        "projection_dim": 16},
        "vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                          "patch_size": 8, "image_size": 16, "projection_dim": 16},
    }
