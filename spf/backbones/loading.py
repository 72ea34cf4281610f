"""A preset becomes a backbone: a diffusers folder, a single file or a hub id's local copy, checked before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5Tokenizer,
)

from spf.backbones import single_file
from spf.backbones.base import Backbone
from spf.backbones.headers import Header, read_header
from spf.backbones.layouts import CLIP_G_PREFIX, CLIP_L_PREFIX, DENOISER, read_architecture, read_config
from spf.backbones.matching import require_latents, require_texts
from spf.backbones.mmdit import MMDiTBackbone
from spf.backbones.single_file import empty_model, plain_text_names, require_fitting, unusable_config
from spf.backbones.source import PUBLISHED, parts, require_model, separate_encoders, tiny_vae_folder, weight_files
from spf.backbones.unet import UNetBackbone
from spf.backbones.vocabulary import clip_tokenizer
from spf.config import REPOSITORY, ModelPreset
from spf.errors import ModelNotFound, SpfError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_DIFFUSERS = {kind.__name__: kind for kind in (UNet2DConditionModel, SD3Transformer2DModel, AutoencoderKL, AutoencoderTiny)}
_ENCODERS = {
    "unet": {"text_encoder": CLIPTextModel},
    "mmdit": {"text_encoder": CLIPTextModelWithProjection, "text_encoder_2": CLIPTextModelWithProjection,
              "text_encoder_3": T5EncoderModel},
}
_SCHEDULERS = {"unet": DDIMScheduler, "mmdit": FlowMatchEulerDiscreteScheduler}
_BACKBONES = {"unet": UNetBackbone, "mmdit": MMDiTBackbone}
Components = dict[str, Any]  # by their names in the diffusers layout


def load_backbone(preset: ModelPreset, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Backbone:
    """The pretrained model of a preset, in its dtype unless another is asked for.

    Raises ModelNotFound naming the missing, damaged or unsuitable file and the remedy, before any weight is read.
    """
    dtype = dtype or DTYPES[preset.dtype]
    path = require_model(preset)
    require_whole(preset, path)
    try:
        backbone = _made(preset, path, dtype)
    except (SpfError, MemoryError):
        raise
    except Exception as error:  # whatever a library says to a file that makes no sense
        reason = str(error).strip().split("\n")[0][:160]
        raise ModelNotFound(f"model: a file of {path} is damaged ({reason}); restore the folder.") from error
    return backbone.to(torch.device(device))


def _made(preset: ModelPreset, path: Path, dtype: torch.dtype) -> Backbone:
    components = _read(preset, path, dtype)
    _require_vocabulary(path, components)
    _require_finite(path, components)
    denoiser = components.pop(DENOISER[preset.family])
    return _BACKBONES[preset.family](denoiser=denoiser, **components)


def require_whole(preset: ModelPreset, path: Path) -> None:
    """Compare names and shapes in the files' headers with the model they should hold. Raises ModelNotFound; reads no weight."""
    if path.is_file():
        _require_whole_file(preset, read_header(path))
    else:
        for part in parts(path):
            if not part.startswith(("tokenizer", "scheduler")) and not (part == "vae" and preset.vae):
                _require_component(path / part, preset)
        require_texts(path, preset.family)
    components = path if path.is_dir() else architecture_of(preset)
    require_latents(components, preset.family, _require_other_vae(preset) if preset.vae else components / "vae")


def _require_whole_file(preset: ModelPreset, header: Header) -> None:
    architecture = architecture_of(preset)
    single_file.require_denoiser(header, architecture, DENOISER[preset.family])
    if not preset.vae:
        single_file.require_vae(header, architecture)
    for part, (source, prefix) in _text_sources(preset, header).items():
        single_file.require_text_encoder(source, prefix, architecture / part, projected=preset.family == "mmdit")


def _require_component(folder: Path, preset: ModelPreset) -> None:
    found: dict[str, Tensor] = {}
    for path in weight_files(folder, preset.variant):
        found |= {name: torch.empty(shape, device="meta") for name, shape in read_header(path).shapes().items()}
    if folder.name.startswith("text_encoder"):
        expected, found = _empty_encoder(folder, preset), plain_text_names(found)
    else:
        expected, found = _empty_diffusers_model(folder).state_dict(), _current_attention_names(found)
    require_fitting(folder, found, expected, folder.name)


def _empty_diffusers_model(folder: Path) -> nn.Module:
    name = read_config(folder / "config.json").get("_class_name")
    if str(name) not in _DIFFUSERS:
        raise ModelNotFound(f"model: a file is damaged ({folder / 'config.json'} names class '{name}'); restore the folder.")
    return empty_model(_DIFFUSERS[name], folder)


def _empty_encoder(folder: Path, preset: ModelPreset) -> Mapping[str, Tensor]:
    read_architecture(folder / "config.json")
    kind = _ENCODERS[preset.family][folder.name]
    try:
        with torch.device("meta"):
            model = kind(kind.config_class.from_pretrained(folder))
    except Exception as error:  # whatever a library says to settings that make no sense
        raise unusable_config(folder, error) from None
    tied = "encoder.embed_tokens.weight"  # T5 writes its one embedding once
    return {name: value for name, value in plain_text_names(model.state_dict()).items() if name != tied}


def _current_attention_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published autoencoders name their one attention as diffusers did in 2022; diffusers still reads that."""
    old = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
    renamed = {}
    for name, value in tensors.items():
        for before, after in old.items():
            name = name.replace(before, after) if ".attentions." in name else name
        renamed[name] = value
    return renamed


def _read(preset: ModelPreset, path: Path, dtype: torch.dtype) -> Components:
    components = _read_file(preset, read_header(path), dtype) if path.is_file() else _read_folder(preset, path, dtype)
    if preset.vae:
        components["vae"] = _read_other_vae(preset, dtype)
    if preset.family == "mmdit":
        components = {"tokenizer_3": None, "text_encoder_3": None} | components
    return components


def _read_folder(preset: ModelPreset, folder: Path, dtype: torch.dtype) -> Components:
    options = {"local_files_only": True}
    components: Components = {}
    for part in parts(folder):
        if part == "scheduler":
            components[part] = scheduler_of(folder, preset.family)
        elif part.startswith("tokenizer"):
            kind = T5Tokenizer if part == "tokenizer_3" else CLIPTokenizer
            components[part] = kind.from_pretrained(folder, subfolder=part, **options)
        elif part.startswith("text_encoder"):
            components[part] = _ENCODERS[preset.family][part].from_pretrained(
                folder, subfolder=part, use_safetensors=True, variant=preset.variant, dtype=dtype, **options)
        elif not (part == "vae" and preset.vae):
            components[part] = _read_component(folder / part, preset.variant, dtype)
    return components


def _read_component(folder: Path, variant: str | None, dtype: torch.dtype) -> nn.Module:
    kind = _DIFFUSERS[read_config(folder / "config.json")["_class_name"]]
    return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, variant=variant, torch_dtype=dtype)


def _read_file(preset: ModelPreset, header: Header, dtype: torch.dtype) -> Components:
    architecture, part = architecture_of(preset), DENOISER[preset.family]
    components: Components = {
        part: single_file.read_denoiser(header, architecture, part, dtype),
        "scheduler": scheduler_of(architecture, preset.family)}
    if not preset.vae:
        components["vae"] = single_file.read_vae(header, architecture, dtype)
    for encoder, (source, prefix) in _text_sources(preset, header).items():
        components[encoder] = single_file.read_text_encoder(
            source, prefix, architecture / encoder, dtype, projected=preset.family == "mmdit")
        components[encoder.replace("text_encoder", "tokenizer")] = _tokenizer(architecture, encoder)
    return components


def _text_sources(preset: ModelPreset, header: Header) -> dict[str, tuple[Header, str]]:
    """For every CLIP text encoder of a single-file model: the file that holds it, and what its names begin with there.

    T5 is left out: its vocabulary comes with no package, and the model works without it (D19).
    """
    if preset.family == "unet":
        return {"text_encoder": (header, single_file.text_prefix(header))}
    separate = {prefix: read_header(path) for prefix, path in separate_encoders(header).items()}
    named = {"text_encoder": CLIP_L_PREFIX, "text_encoder_2": CLIP_G_PREFIX}
    return {part: (separate[prefix], "") if prefix in separate else (header, prefix) for part, prefix in named.items()}


def _tokenizer(architecture: Path, encoder: str) -> CLIPTokenizer:
    """Of the architecture's own folder if it has one, else CLIP's."""
    name = encoder.replace("text_encoder", "tokenizer")
    if (architecture / name / "tokenizer.json").is_file():
        return CLIPTokenizer.from_pretrained(architecture / name, local_files_only=True)
    return clip_tokenizer(pad_token="!" if name == "tokenizer_2" else "<|endoftext|>")


def architecture_of(preset: ModelPreset) -> Path:
    """Folder with the component configurations of a single-file model."""
    return REPOSITORY / preset.architecture if preset.architecture else PUBLISHED[preset.family]


def _other_vae(preset: ModelPreset) -> Path:
    """Folder with config.json, or single file, of the autoencoder that replaces the model's own. Raises ModelNotFound."""
    path = REPOSITORY / Path(preset.vae).expanduser()
    path = path / "vae" if (path / "vae" / "config.json").is_file() else path
    if not (path.is_file() or (path / "config.json").is_file()):
        raise ModelNotFound(f"vae: {path} does not exist or holds no config.json; correct it or leave it out.")
    return path


def _require_other_vae(preset: ModelPreset) -> Path:
    """The folder with its configuration. Raises ModelNotFound if it is not whole."""
    path = _other_vae(preset)
    if path.is_file():
        single_file.require_vae(read_header(path), architecture_of(preset))
        return architecture_of(preset) / "vae"
    _require_component(path, preset.model_copy(update={"variant": None}))
    return path


def _read_other_vae(preset: ModelPreset, dtype: torch.dtype) -> nn.Module:
    path = _other_vae(preset)
    if path.is_file():
        return single_file.read_vae(read_header(path), architecture_of(preset), dtype)
    return _read_component(path, None, dtype)


def load_tiny_autoencoder(preset: ModelPreset, latent_channels: int, device: torch.device) -> AutoencoderTiny | None:
    """The frozen tiny autoencoder of a model's latents; None if it is not on this computer.

    Raises ModelNotFound for one that is there and is damaged, or of other latents.
    """
    folder = tiny_vae_folder(preset)
    if folder is None:
        return None
    _require_component(folder, preset.model_copy(update={"variant": None}))
    network = _read_component(folder, None, DTYPES[preset.dtype])
    if not isinstance(network, AutoencoderTiny) or network.config.latent_channels != latent_channels:
        raise ModelNotFound(f"tiny_vae: {folder} is no tiny autoencoder of {latent_channels} latent channels; correct 'tiny_vae' "
                            f"in the preset '{preset.name}'.")
    _require_finite(folder, {"vae": network})
    return network.to(device).requires_grad_(False).eval()


LARGEST_EMPTY_TOKENIZER = 104  # tokens: T5's hundred extra ids and its specials


def _require_vocabulary(path: Path, components: Components) -> None:
    """Without its files transformers builds a tokenizer of 2 tokens (CLIP) or 104 (T5), and the text would not be read."""
    for name, tokenizer in components.items():
        encoder = components.get(name.replace("tokenizer", "text_encoder"))
        if not name.startswith("tokenizer") or tokenizer is None or encoder is None:
            continue  # also T5's tokenizer in a folder that leaves T5 out
        size = encoder.config.vocab_size
        if not LARGEST_EMPTY_TOKENIZER < len(tokenizer) <= size:
            raise ModelNotFound(f"model: the {name} of {path} has {len(tokenizer):,} tokens and its text encoder knows {size:,}; "
                                "restore the folder.")


def _require_finite(path: Path, components: Components) -> None:
    for part, module in components.items():
        if not isinstance(module, nn.Module):
            continue
        for name, tensor in module.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise ModelNotFound(
                    f"model: a file of {path} is damaged ({part} tensor '{name}' holds values that are not numbers); restore it.")


def denoiser_state(preset: ModelPreset) -> dict[str, Tensor]:
    """Names and shapes of a model's denoiser, on the meta device."""
    path = require_model(preset)
    folder = (architecture_of(preset) if path.is_file() else path) / DENOISER[preset.family]
    return dict(_empty_diffusers_model(folder).state_dict())


def scheduler_of(folder: Path, family: str) -> Any:
    """The scheduler that a folder of component configurations describes."""
    return _SCHEDULERS[family].from_pretrained(folder, subfolder="scheduler", local_files_only=True)
