"""Tiny seeded models with random weights: they prove shapes, gradients and plumbing, never quality."""

import os

import spf  # noqa: F401  (first: lets torchvision import on a CPU build of torch)

import open_clip
import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from spf.backbones.unet import UNetBackbone
from spf.clip import Clip, _ClipTokens
from spf.pocket import tokenizer as pocket_tokenizer

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
torch.set_num_threads(2)

RESOLUTION = 32  # pixels; latents are 8x8


@pytest.fixture(autouse=True)
def spf_home(tmp_path, monkeypatch):
    """Every test has a data folder of its own."""
    monkeypatch.setenv("SPF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def tokenizer():
    return pocket_tokenizer.train_tokenizer(pocket_tokenizer.caption_corpus(0, 200), 700)


@pytest.fixture
def backbone(tokenizer) -> UNetBackbone:
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
def clip(tokenizer) -> Clip:
    torch.manual_seed(1)
    model = open_clip.CLIP(
        embed_dim=16, vision_cfg={"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        text_cfg={"context_length": 77, "vocab_size": len(tokenizer), "width": 32, "heads": 2, "layers": 1})
    return Clip(model, _ClipTokens(tokenizer), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
