"""Tiny models with random weights in exactly the formats that Stable Diffusion 1.5 and 3.5 were published in."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

import pytest
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

from spf.backbones import headers, loading, single_file
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


@contextmanager
def headers_alone() -> Iterator[dict[Path, int]]:
    """Inside, a weights file may be read no further than its header goes, and nothing may be made of it.

    Yields how far each file was read, in bytes: a bound that no busy machine moves. What is refused inside has cost one header,
    whatever size the file has, and leaves no network half loaded.
    """
    read: dict[Path, int] = {}

    class Watched(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            content = super().read(size)
            read[Path(self.name)] = max(read.get(Path(self.name), 0), self.tell())
            return content

    def forbidden(*_args, **_options):
        pytest.fail("weights were read, or a network was built from them, before the file was refused")

    places = [(loading, "_read"), (single_file, "safe_open"), (torch, "load")]
    with patch.object(headers, "open", Watched, create=True):
        for module, name in places:
            patcher = patch.object(module, name, forbidden)
            patcher.start()
        try:
            yield read
        finally:
            patch.stopall()
    for path, end in read.items():
        assert end <= header_end(path), f"{end} bytes of {path} were read"


def header_end(path: Path) -> int:
    """Bytes up to the end of a file's header, or of what must be read to see that it has none."""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
    whole = 2 <= length <= min(path.stat().st_size - 8, headers.MAX_HEADER)
    return 8 + length if whole else 9
