"""Models in one .safetensors file in the layouts they were published in: Stable Diffusion 1.x (LDM) and 3.5.

Everything is checked against the header before a tensor is read, so a file that does not fit is refused in a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedModel

from spf.backbones.headers import Header
from spf.backbones.layouts import CLIP_PREFIX, DENOISER_PREFIX, VAE_PREFIX, read_architecture, read_config
from spf.errors import ModelNotFound

Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]
_DENOISERS = {"unet": UNet2DConditionModel, "transformer": SD3Transformer2DModel}


def require_denoiser(header: Header, architecture: Path, part: str) -> None:
    """Raises ModelNotFound if the file's denoiser is not the one that architecture/<part> describes."""
    convert = _convert_denoiser(architecture, part)
    expected = empty_model(_DENOISERS[part], architecture / part)
    require_fitting(header.path, _converted(header, DENOISER_PREFIX, convert), expected.state_dict(), "denoiser")


def read_denoiser(header: Header, architecture: Path, part: str, dtype: torch.dtype) -> nn.Module:
    """The denoiser of a checked file."""
    return _DENOISERS[part].from_single_file(
        read_tensors(header, DENOISER_PREFIX), config=str(architecture), subfolder=part, local_files_only=True,
        torch_dtype=dtype)


def require_vae(header: Header, architecture: Path) -> None:
    """Raises ModelNotFound if the file's autoencoder is missing or another one than architecture/vae describes."""
    if not vae_prefixes(header):
        raise ModelNotFound(f"model: {header.path} holds no autoencoder; name one under 'vae' of its preset.")
    config = read_config(architecture / "vae" / "config.json")
    found = _converted(header, vae_prefixes(header)[0], lambda tensors: convert_ldm_vae_checkpoint(tensors, config), keep=False)
    require_fitting(header.path, found, empty_model(AutoencoderKL, architecture / "vae").state_dict(), "autoencoder")


def read_vae(header: Header, architecture: Path, dtype: torch.dtype) -> AutoencoderKL:
    """The autoencoder of a checked file: baked into a model, or alone in its own file."""
    config = read_config(architecture / "vae" / "config.json")
    tensors = convert_ldm_vae_checkpoint(read_tensors(header, vae_prefixes(header)[0], keep=False), config)
    return AutoencoderKL.from_single_file(
        tensors, config=str(architecture), subfolder="vae", local_files_only=True, torch_dtype=dtype)


def vae_prefixes(header: Header) -> list[str]:
    """What the names of an autoencoder's tensors begin with in this file; empty if it has none."""
    return [prefix for prefix in (VAE_PREFIX, "") if f"{prefix}decoder.conv_in.weight" in header.tensors]


def require_text_encoder(header: Header, prefix: str, folder: Path, projected: bool = False) -> None:
    """Raises ModelNotFound if the tensors under `prefix` are not the CLIP text encoder that `folder` describes."""
    expected = plain_text_names(_empty_text_encoder(folder, projected).state_dict())
    found = plain_text_names(_meta(header, prefix, keep=False))
    if projected:
        found.setdefault("text_projection.weight", expected["text_projection.weight"])
    require_fitting(header.path, found, expected, "text encoder")


def read_text_encoder(header: Header, prefix: str, folder: Path, dtype: torch.dtype, projected: bool = False) -> PreTrainedModel:
    """A CLIP text encoder of a checked file. One with a projection that the file leaves out projects by the identity."""
    config = CLIPTextConfig.from_pretrained(folder)
    tensors = plain_text_names(read_tensors(header, prefix, keep=False))
    if projected:
        tensors.setdefault("text_projection.weight", torch.eye(config.projection_dim, config.hidden_size))
        tensors = {name if name.startswith("text_projection") else f"text_model.{name}": value for name, value in tensors.items()}
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    return kind.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype)


def text_prefix(header: Header) -> str:
    """Of the text encoder in a Stable Diffusion 1.x file. Raises ModelNotFound if it has none."""
    if not header.shapes(CLIP_PREFIX):
        raise ModelNotFound(f"model: {header.path} holds no text encoder; get the whole model.")
    return CLIP_PREFIX


def plain_text_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLIP text encoders are written with and without a 'text_model.' before every name, and old ones with position_ids."""
    return {name.removeprefix("text_model."): value for name, value in tensors.items() if not name.endswith("position_ids")}


def empty_model(kind: Any, folder: Path) -> nn.Module:
    """A diffusers model on the meta device: shapes, no memory. Raises ModelNotFound if its configuration is no use."""
    config = read_architecture(folder / "config.json")
    try:
        with torch.device("meta"):  # accelerate's way works out Stable Diffusion 3's table of positions: 3.5 GB, and seconds
            return kind.from_config(config)
    except Exception as error:  # whatever a library says to settings that make no sense
        raise unusable_config(folder, error) from None


def unusable_config(folder: Path, error: Exception) -> ModelNotFound:
    reason = str(error).strip().split("\n")[0][:160]
    return ModelNotFound(f"model: a file is damaged ({folder / 'config.json'}: {reason}); restore the folder.")


def _empty_text_encoder(folder: Path, projected: bool) -> nn.Module:
    with torch.device("meta"):
        return (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig.from_pretrained(folder))


def require_fitting(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raises ModelNotFound naming the first tensor of `expected` that is not there or has another shape."""
    for name, tensor in expected.items():
        if name not in found:
            raise ModelNotFound(
                f"model: {path} lacks tensor '{name}' of its {what}; it is incomplete or of another kind of model.")
        if found[name].shape != tensor.shape:
            raise ModelNotFound(
                f"model: the {what} in {path} is of another size: '{name}' is {tuple(found[name].shape)} where "
                f"{tuple(tensor.shape)} is expected; use a Stable Diffusion 1.x or 3.5-medium model, or name its 'architecture'.")


def _convert_denoiser(architecture: Path, part: str) -> Convert:
    if part == "transformer":
        return lambda tensors: convert_sd3_transformer_checkpoint_to_diffusers(tensors)
    config = read_config(architecture / part / "config.json")
    return lambda tensors: convert_ldm_unet_checkpoint(tensors, config)


def _converted(header: Header, prefix: str, convert: Convert, keep: bool = True) -> dict[str, Tensor]:
    """What the tensors under `prefix` become, on the meta device. Raises ModelNotFound if one that is needed is missing."""
    try:
        return convert(_meta(header, prefix, keep))
    except (KeyError, IndexError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelNotFound(f"model: {header.path} is incomplete ({error}); get the whole file again.") from None


def _meta(header: Header, prefix: str, keep: bool) -> dict[str, Tensor]:
    return {name if keep else name[len(prefix):]: torch.empty(facts.shape, device="meta")
            for name, facts in header.tensors.items() if name.startswith(prefix)}


def read_tensors(header: Header, prefix: str, keep: bool = True) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`; without it in their names unless `keep`."""
    with safe_open(header.path, framework="pt") as file:
        return {name if keep else name[len(prefix):]: file.get_tensor(name) for name in _named(header, prefix)}


def _named(header: Header, prefix: str) -> Iterable[str]:
    return [name for name in header.tensors if name.startswith(prefix)]


