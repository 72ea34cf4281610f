"""Tiny seeded models with random weights: they prove shapes, gradients and plumbing, never quality."""

# ruff: noqa: I001  (spf comes first: it lets torchvision import on a CPU build of torch)
import copy
import json
import os

import spf  # noqa: F401

import open_clip
import pytest
import torch
import yaml
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from hypothesis import settings
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from spf import config
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
def _backbone(tokenizer) -> UNetBackbone:
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id))
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), attention_head_dim=(2, 4),
        layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=32, norm_num_groups=8)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1), latent_channels=4)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1, timestep_spacing="trailing")
    return UNetBackbone(tokenizer, text_encoder, unet, vae, scheduler)


@pytest.fixture
def backbone(_backbone) -> UNetBackbone:
    made = _backbone
    return UNetBackbone(made.tokenizer, *map(copy.deepcopy, (made.text_encoder, made.denoiser, made.vae)), made.scheduler)


@pytest.fixture
def response(backbone) -> UNetBackbone:
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
def model_folder(tmp_path_factory, tokenizer, _backbone, _clip_network):
    """The tiny models on disk, as a preset points to them: a diffusers folder with an open_clip folder in it. Read-only."""
    folder = tmp_path_factory.mktemp("tiny")
    for name, part in (("tokenizer", tokenizer), ("text_encoder", _backbone.text_encoder), ("unet", _backbone.denoiser),
                       ("vae", _backbone.vae), ("scheduler", _backbone.scheduler), ("clip/tokenizer", tokenizer)):
        part.save_pretrained(folder / name)
    text = {**_CLIP["text_cfg"], "vocab_size": len(tokenizer), "hf_tokenizer_name": "tokenizer"}
    save_file(_clip_network.state_dict(), folder / "clip" / "open_clip_model.safetensors")
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps({
        "model_cfg": {**_CLIP, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}}))
    return folder


@pytest.fixture
def tiny(model_folder, tmp_path, monkeypatch) -> config.ModelPreset:
    """The only model and the only training preset that exist in the test, both called 'tiny'."""
    model = {
        "name": "tiny", "title": "Tiny", "family": "unet", "pretrained_model_name_or_path": str(model_folder),
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
