"""Export: a customization becomes a diffusers folder, a single file in the original layout, a delta or a LoRA.

Whatever is written appears whole or not at all, and replaces nothing unless it is told to.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline, StableDiffusionPipeline
from torch import Tensor

from spf.backbones import checkpoints, parallel_attention
from spf.backbones.base import Backbone
from spf.backbones.layouts import CLIP_G_PREFIX, CLIP_L_PREFIX, CLIP_PREFIX, DENOISER, DENOISER_PREFIX, VAE_PREFIX
from spf.backbones.loading import DTYPES, load_backbone
from spf.backbones.single_file import plain_text_names
from spf.config import REPOSITORY, ModelPreset, model_preset
from spf.errors import CustomizationError, InvalidInput
from spf.export import lora, original
from spf.export.asked import Export, unwritable
from spf.export.metadata import lora_metadata, model_metadata
from spf.files import save_tensors, staged
from spf.library import CARD, Customization, named

_T5_PREFIX = "text_encoders.t5xxl.transformer."


def export(asked: Export) -> dict[str, Any]:
    """Write it, and say what was written. Raises InvalidInput, CustomizationError or ModelNotFound, and then writes nothing."""
    preset = model_preset(named(asked.name).card.model)
    found = checkpoints.customization(asked.name, preset)
    backbone = load_backbone(preset)
    write: Callable[..., dict[str, Any]] = {
        "diffusers": _write_folder, "single-file": _write_single_file, "delta": _write_delta, "lora": _write_lora}[asked.format]
    try:
        report = write(asked, found, preset, backbone)
    except OSError as error:
        raise unwritable(asked.out, error) from None
    return {"customization": asked.name, "format": asked.format, "out": str(asked.out), "bytes": _size(asked.out), **report}


def _write_folder(asked: Export, found: Customization, preset: ModelPreset, backbone: Backbone) -> dict[str, Any]:
    customized(backbone, found)
    with staged(asked.out) as folder:
        pipeline(backbone, preset).to(dtype=DTYPES[asked.dtype or preset.dtype]).save_pretrained(folder)
        (folder / CARD).write_text(found.card.model_dump_json(indent=2), encoding="utf-8")
        if (own_clip := REPOSITORY / Path(preset.clip).expanduser()).is_dir():  # without it this app could not read the folder
            shutil.copytree(own_clip, folder / "clip")
    without = ", text_encoder_3=None, tokenizer_3=None" if preset.family == "mmdit" and backbone.text_encoder_3 is None else ""
    kind = {"unet": StableDiffusionPipeline, "mmdit": StableDiffusion3Pipeline}[preset.family].__name__
    return {"loads_with": f"{kind}.from_pretrained('{asked.out}'{without})"}


def pipeline(backbone: Backbone, preset: ModelPreset) -> StableDiffusionPipeline | StableDiffusion3Pipeline:
    """The plain diffusers pipeline around a backbone's own parts."""
    if preset.family == "unet":
        return StableDiffusionPipeline(
            vae=backbone.vae, text_encoder=backbone.text_encoder, tokenizer=backbone.tokenizer, unet=backbone.denoiser,
            scheduler=backbone.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    names = [f"{kind}{number}" for kind in ("tokenizer", "text_encoder") for number in ("", "_2", "_3")]
    parts = {name: getattr(backbone, name) for name in names}
    return StableDiffusion3Pipeline(transformer=backbone.denoiser, vae=backbone.vae, scheduler=backbone.scheduler, **parts)


def _write_single_file(asked: Export, found: Customization, preset: ModelPreset, backbone: Backbone) -> dict[str, Any]:
    customized(backbone, found)
    tensors = (_ldm_tensors if preset.family == "unet" else _sd3_tensors)(backbone)
    report: dict[str, Any] = {"left_out": []}
    if isinstance(backbone.vae, AutoencoderKL):
        tensors |= under(VAE_PREFIX, original.vae_to_ldm(backbone.vae.state_dict()))
    else:  # the original layouts know no tiny autoencoder
        report["left_out"].append("autoencoder: this layout has no place for a tiny one; give it as 'vae' when loading")
    _save(asked, tensors, model_metadata(found.card, preset), DTYPES[asked.dtype or preset.dtype])
    return report


def _ldm_tensors(backbone: Backbone) -> dict[str, Tensor]:
    layers = backbone.denoiser.config.layers_per_block
    try:
        denoiser = original.unet_to_ldm(backbone.denoiser.state_dict(), layers)
    except (ValueError, TypeError) as error:
        raise CustomizationError(f"customization: {error}; export it as diffusers.") from None
    return under(DENOISER_PREFIX, denoiser) | under(
        f"{CLIP_PREFIX}text_model.", plain_text_names(backbone.text_encoder.state_dict()))


def _sd3_tensors(backbone: Backbone) -> dict[str, Tensor]:
    tensors = under(DENOISER_PREFIX, original.mmdit_to_original(backbone.denoiser.state_dict()))
    for prefix, encoder in ((CLIP_L_PREFIX, backbone.text_encoder), (CLIP_G_PREFIX, backbone.text_encoder_2),
                            (_T5_PREFIX, backbone.text_encoder_3)):
        if encoder is not None:
            tensors |= under(prefix, encoder.state_dict())
    return {name: value for name, value in tensors.items() if name != f"{_T5_PREFIX}encoder.embed_tokens.weight"}


def _write_delta(asked: Export, found: Customization, preset: ModelPreset, backbone: Backbone) -> dict[str, Any]:
    branches = adapter(backbone, found)
    metadata = model_metadata(found.card, preset) | {"spf_format": "delta", "spf_adapter_tensors": str(len(branches))}
    _save(asked, changes(backbone, found) | branches, metadata, DTYPES[asked.dtype or "fp16"])
    return {"belongs_to": found.card.model_sha256, "adapter_tensors": len(branches)}


def _write_lora(asked: Export, found: Customization, preset: ModelPreset, backbone: Backbone) -> dict[str, Any]:
    if asked.lora_format == "kohya" and preset.family != "unet":
        raise InvalidInput("--lora-format", "kohya's keys are known for the U-Net family only; use diffusers")
    factors, error = lora.approximate(mergeable(backbone, found), asked.rank, DTYPES[asked.dtype or "fp16"])
    if not factors:
        raise CustomizationError(f"customization: '{asked.name}' changed no matrix, so it has no LoRA; export it as delta.")
    tensors = (lora.kohya_keys(factors) if asked.lora_format == "kohya" else
               lora.diffusers_keys(factors, DENOISER[preset.family]))
    _save(asked, tensors, lora_metadata(found.card, preset, asked.rank, error), None)
    return {"rank": asked.rank, "layers": len(factors), "reconstruction_error": round(error, 6)}


def adapter(backbone: Backbone, found: Customization) -> dict[str, Tensor]:
    """What a customization adds beside the cross-attention (the keys and values of `parallel_attention`), float32, as it is."""
    own = backbone.denoiser.state_dict()
    return {name: value for name, value in found.tensors().items()
            if (twin := parallel_attention.twin(name)) in own and own[twin].shape == value.shape}


def changes(backbone: Backbone, found: Customization) -> dict[str, Tensor]:
    """Customized minus original of every changed tensor, float32. Raises CustomizationError if one is not of the denoiser."""
    own, added, differences = backbone.denoiser.state_dict(), adapter(backbone, found), {}
    for name, value in found.tensors().items():
        if name in added:
            continue
        if name not in own or own[name].shape != value.shape:
            raise CustomizationError(f"customization: '{found.card.name}' adds '{name}' to the model, which no other program "
                                     "knows; copy its folder instead.")
        differences[name] = value - own[name].float()
    return differences


def mergeable(backbone: Backbone, found: Customization) -> dict[str, Tensor]:
    """`changes` of a customization that adds nothing. Raises CustomizationError for an adapter: its attention to the target's
    tokens alone is a second softmax, which no tensor of the model can take in and no layer of other programs computes."""
    if adapter(backbone, found):
        raise CustomizationError(f"customization: '{found.card.name}' holds an adapter beside the attention, which cannot be "
                                 "merged into the model; export it with --format delta, which 'import' reads.")
    return changes(backbone, found)


def customized(backbone: Backbone, found: Customization) -> None:
    """The backbone's denoiser becomes the customized one. Raises CustomizationError if it holds what diffusers has not."""
    mergeable(backbone, found)
    checkpoints.apply(backbone, found.tensors())


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _save(asked: Export, tensors: Mapping[str, Tensor], metadata: dict[str, str], dtype: torch.dtype | None) -> None:
    ready = {name: (value.to(dtype) if dtype and value.is_floating_point() else value).detach().cpu().contiguous().clone()
             for name, value in tensors.items()}
    with staged(asked.out) as path:
        save_tensors(ready, path, {key: str(value) for key, value in metadata.items()})


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else (path,)) if file.is_file())
