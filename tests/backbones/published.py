"""Tiny models with random weights in exactly the formats that Stable Diffusion 1.5 and 3.5 were published in."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from spf.backbones.vocabulary import SIZE
from spf.config import ModelPreset
from spf.export import original
from spf.pocket.tokenizer import caption_corpus, train_tokenizer


@lru_cache(maxsize=1)
def _tokenizer() -> CLIPTokenizer:
    """A small vocabulary: CLIP's own takes half a second to read, and one test is enough for it."""
    return train_tokenizer(caption_corpus(0, 50), 600)


def _text_config(width: int, **more) -> CLIPTextConfig:
    return CLIPTextConfig(vocab_size=SIZE, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
                          num_attention_heads=2, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407, **more)


def _vae(channels: int, **more) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8, sample_size=16, latent_channels=channels, **more)


def sd15() -> dict:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32, 32), down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2, cross_attention_dim=16, norm_num_groups=8,
        attention_head_dim=2)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1)
    return {"unet": unet, "vae": _vae(4), "text_encoder": CLIPTextModel(_text_config(16)), "scheduler": scheduler,
            "tokenizer": _tokenizer()}


def sd35() -> dict:
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8, num_layers=3, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32, in_channels=4,
        out_channels=4, caption_projection_dim=32, pooled_projection_dim=24, pos_embed_max_size=24, dual_attention_layers=(0,),
        qk_norm="rms_norm")
    encoders = {f"text_encoder{suffix}": CLIPTextModelWithProjection(_text_config(width, projection_dim=width))
                for suffix, width in (("", 16), ("_2", 8))}
    torch.nn.init.eye_(encoders["text_encoder"].text_projection.weight)  # as published, and as every reader assumes
    return {"transformer": transformer, **encoders, "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
            "vae": _vae(4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
            "tokenizer": _tokenizer(), "tokenizer_2": _tokenizer()}


def save_folder(components: dict, folder: Path, **options) -> Path:
    for name, part in components.items():
        weights = hasattr(part, "state_dict")
        part.save_pretrained(folder / name, **(options if weights else {}))
    return folder


def ldm(components: dict) -> dict[str, Tensor]:
    """Stable Diffusion 1.5 in one file: U-Net, autoencoder, text encoder."""
    return {
        **_under("model.diffusion_model.", original.unet_to_ldm(components["unet"].state_dict(), 2)),
        **_under("first_stage_model.", original.vae_to_ldm(components["vae"].state_dict())),
        **_under("cond_stage_model.transformer.text_model.", components["text_encoder"].state_dict())}


def sd3_file(components: dict) -> dict[str, Tensor]:
    """Stable Diffusion 3.5 medium in one file, without text encoders."""
    return {**_under("model.diffusion_model.", original.mmdit_to_original(components["transformer"].state_dict())),
            **_under("first_stage_model.", original.vae_to_ldm(components["vae"].state_dict()))}


def sd3_encoders(components: dict) -> dict[str, dict[str, Tensor]]:
    """The separate text encoder files, by name."""
    return {"clip_l": components["text_encoder"].state_dict(), "clip_g": components["text_encoder_2"].state_dict()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def write(path: Path, tensors: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.to(dtype if value.is_floating_point() else value.dtype).contiguous().clone()
               for name, value in tensors.items()}, path)
    return path


def preset(path: Path | str, family: str = "unet", **more) -> ModelPreset:
    return ModelPreset(name="published", title="Published", family=family, pretrained_model_name_or_path=str(path), clip="none",
                       resolution=64, base_text="a person", **more)
