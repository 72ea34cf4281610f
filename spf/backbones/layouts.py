"""Which model a file or folder holds, judged by tensor names and shapes and by configuration, never by file names."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from spf.backbones.headers import FLOATS, Header
from spf.errors import ModelNotFound

Family = Literal["unet", "mmdit"]
DENOISER = {"unet": "unet", "mmdit": "transformer"}  # its folder in the diffusers layout, by family
DENOISER_PREFIX = "model.diffusion_model."  # in the original single-file layouts of both families
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = "cond_stage_model.transformer."  # Stable Diffusion 1.x
CLIP_L_PREFIX, CLIP_G_PREFIX = "text_encoders.clip_l.transformer.", "text_encoders.clip_g.transformer."  # Stable Diffusion 3
_SUPPORTED = "use a Stable Diffusion 1.x or 3.5-medium model"
_NOT_SUPPORTED = f"which is not supported; {_SUPPORTED}"
MAX_CONFIG = 16 << 20  # bytes; the longest that models have, a tokenizer's vocabulary, take 4 MB
MAX_REPEATS, MAX_WIDTH = 1000, 1 << 20  # layers of a network, and any other number in its configuration
# AutoencoderTiny writes a setting of its own into its configuration, and diffusers complains of it when it reads that again
logging.getLogger("diffusers.configuration_utils").addFilter(lambda record: "block_out_channels" not in record.getMessage())
_OTHER_DENOISERS = {"FluxTransformer2DModel": "FLUX", "PixArtTransformer2DModel": "PixArt"}


def family_of_file(header: Header) -> Family:
    """The family of a single-file model. Raises ModelNotFound saying what the file is if it is something else."""
    names, path = header.tensors.keys(), header.path
    for parts, what in (
        (("lora_down", "lora_up", "lora_A", "lora_B", "lora_unet", "hada_w1", "lokr_w1"),
         "is a LoRA, which is added to a model and is none itself; give the model it belongs to"),
        (("conditioner.embedders.", "diffusion_model.label_emb."), f"is a Stable Diffusion XL model, {_NOT_SUPPORTED}"),
        (("double_blocks.",), f"is a FLUX model, {_NOT_SUPPORTED}"),
        (("control_model.", "input_hint_block."), "is a ControlNet, not a whole model; give the model it belongs to"),
    ):
        if any(part in name for name in names for part in parts):
            raise ModelNotFound(f"model: {path} {what}.")
    if any(name.startswith(f"{DENOISER_PREFIX}joint_blocks.") for name in names):
        family: Family = "mmdit"
    elif f"{DENOISER_PREFIX}input_blocks.0.0.weight" in names:
        _require_plain_sd1(header)
        family = "unet"
    else:
        raise ModelNotFound(f"model: {path} {_part_of_a_model(names)}.")
    _require_floats(header)
    return family


def _require_plain_sd1(header: Header) -> None:
    shape = header.tensors[f"{DENOISER_PREFIX}input_blocks.0.0.weight"].shape
    channels = shape[1] if len(shape) == 4 else 0
    if channels != 4:
        raise ModelNotFound(f"model: {header.path} {unusual_channels(channels)}.")
    context = next((facts.shape[1] for name, facts in header.tensors.items()
                    if name.endswith(".attn2.to_k.weight") and len(facts.shape) == 2), 0)
    if context == 1024 or any(name.startswith("cond_stage_model.model.") for name in header.tensors):
        raise ModelNotFound(
            f"model: {header.path} is a Stable Diffusion 2 model, whose single files are not supported; {_SUPPORTED}.")


def unusual_channels(channels: int) -> str:
    """What a U-Net with this number of input channels is."""
    kinds = {"9": "an inpainting model", "8": "an instruction-editing model", "5": "a depth-conditioned model"}
    return f"is {kinds.get(str(channels), 'a model')} with {channels} input channels where 4 are needed; {_SUPPORTED}"


def _part_of_a_model(names) -> str:
    if any(name.startswith(("down_blocks.", "transformer_blocks.", "encoder.down_blocks.")) for name in names):
        return "is one component of a diffusers folder; give the folder that holds it"
    if any(name.startswith(("encoder.", "decoder.", VAE_PREFIX)) for name in names):
        return "is an autoencoder, not a whole model; name it under 'vae' of a model preset"
    if any("text_model." in name for name in names):
        return "is a text encoder, not a whole model; give the model's file"
    return f"holds no model that this app knows; {_SUPPORTED}"


def _require_floats(header: Header) -> None:
    odd = [facts.dtype for name, facts in header.tensors.items()
           if name.startswith(DENOISER_PREFIX) and facts.dtype not in FLOATS]
    if odd:
        raise ModelNotFound(f"model: {header.path} stores weights as {odd[0]}; get the fp16, bf16 or fp32 version.")


def family_of_folder(folder: Path) -> Family:
    """The family of a diffusers folder. Raises ModelNotFound saying what it is if it is something else."""
    family: Family = "mmdit" if (folder / "transformer").is_dir() else "unet"
    path = folder / DENOISER[family] / "config.json"
    config = read_config(path)
    name = config.get("_class_name")
    if name not in ("UNet2DConditionModel", "SD3Transformer2DModel"):
        raise ModelNotFound(f"model: {folder} is a {_OTHER_DENOISERS.get(str(name), name)} model, {_NOT_SUPPORTED}.")
    if family == "unet":
        _require_plain_unet(folder, config)
    return family


def _require_plain_unet(folder: Path, config: dict[str, Any]) -> None:
    if config.get("addition_embed_type"):
        raise ModelNotFound(f"model: {folder} is a Stable Diffusion XL model, {_NOT_SUPPORTED}.")
    channels = config.get("in_channels", 4)
    if channels != config.get("out_channels", 4):
        raise ModelNotFound(f"model: {folder} {unusual_channels(channels)}.")
    prediction = read_config(folder / "scheduler" / "scheduler_config.json").get("prediction_type", "epsilon")
    if prediction != "epsilon":
        raise ModelNotFound(
            f"model: {folder} predicts '{prediction}' (as Stable Diffusion 2 does) where noise is needed; {_SUPPORTED}.")


def read_config(path: Path) -> dict[str, Any]:
    """A component's JSON configuration. Raises ModelNotFound naming the file; one that is far too long is not read."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_CONFIG + 1)
        if len(raw) > MAX_CONFIG:
            raise ValueError(f"longer than {MAX_CONFIG} bytes")
        config = json.loads(raw.decode("utf-8"))
    except OSError:
        raise ModelNotFound(f"model: {path} does not exist; restore it or choose another model.") from None
    except (ValueError, RecursionError):
        raise ModelNotFound(f"model: a file is damaged ({path} is not JSON); restore the folder.") from None
    if not isinstance(config, dict):
        raise ModelNotFound(f"model: a file is damaged ({path} holds no settings); restore the folder.")
    return config


def read_architecture(path: Path) -> dict[str, Any]:
    """A network's configuration, which can be built in a moment: a billion layers would take the library for ever.

    Raises ModelNotFound naming the file and the setting.
    """
    config = read_config(path)
    for name, value in config.items():
        most = MAX_REPEATS if "layers" in name or name.endswith("coder_blocks") else MAX_WIDTH
        if any(abs(number) > most for number in _integers(value)):
            raise ModelNotFound(f"model: a file is damaged ({path}: {name[:80]} is beyond {most:,}); restore the folder.")
    return config


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _integers(part)
