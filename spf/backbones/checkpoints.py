"""Loading models and customizations, and writing customizations. Safetensors only; files are written beside and renamed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from spf.backbones.base import Backbone
from spf.backbones.unet import UNetBackbone
from spf.config import REPOSITORY, ModelPreset, home
from spf.errors import CustomizationError, ModelNotFound
from spf.files import replace_folder
from spf.library import CARD, WEIGHTS, Customization, CustomizationCard, customizations

_DENOISER_WEIGHTS = "diffusion_pytorch_model.safetensors"


def load_backbone(preset: ModelPreset, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Backbone:
    """The pretrained model of a preset. Raises ModelNotFound naming the missing or damaged file and the remedy."""
    if preset.family != "unet":
        raise ModelNotFound(f"model: '{preset.name}' is of family '{preset.family}', which this version cannot run yet.")
    if (missing := missing_file(preset)) is not None:
        raise ModelNotFound(
            f"model: {missing} does not exist; restore the folder, or train the model with "
            f"'python -m spf pretrain {preset.name}'.")
    folder = REPOSITORY / preset.pretrained_model_name_or_path
    try:
        return _load_unet(folder, dtype).to(torch.device(device))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).split("\n")[0]
        raise ModelNotFound(f"model: a file of {folder} is damaged ({reason}); restore the folder.") from error


def _load_unet(folder: Path, dtype: torch.dtype) -> UNetBackbone:
    options = {"local_files_only": True, "use_safetensors": True, "torch_dtype": dtype}
    return UNetBackbone(
        tokenizer=CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True),
        text_encoder=CLIPTextModel.from_pretrained(
            folder, subfolder="text_encoder", local_files_only=True, use_safetensors=True, dtype=dtype),
        denoiser=UNet2DConditionModel.from_pretrained(folder, subfolder="unet", **options),
        vae=_autoencoder_class(folder).from_pretrained(folder, subfolder="vae", **options),
        scheduler=DDIMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True),
    )


def missing_file(preset: ModelPreset) -> Path | None:
    """The first file of a preset that is not there; transformers would quietly build an empty tokenizer without it."""
    folder = REPOSITORY / preset.pretrained_model_name_or_path
    parts = ("tokenizer/tokenizer.json", "unet/config.json", f"unet/{_DENOISER_WEIGHTS}", "text_encoder/config.json",
             "text_encoder/model.safetensors", "vae/config.json", f"vae/{_DENOISER_WEIGHTS}",
             "scheduler/scheduler_config.json")
    return next((folder / part for part in parts if not (folder / part).is_file()), None)


def denoiser_hash(preset: ModelPreset) -> str:
    """SHA-256 of the pretrained denoiser's weights file: the identity of the model a customization belongs to."""
    path = REPOSITORY / preset.pretrained_model_name_or_path / "unet" / _DENOISER_WEIGHTS
    try:
        facts = path.stat()
    except OSError:
        raise ModelNotFound(f"model: {path} does not exist; restore it or choose another model.") from None
    return _sha256(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=16)
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    """Of a file as it is at that time: gigabytes are not read again for every portrait."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def customization(name: str, preset: ModelPreset) -> Customization:
    """The customization called `name`, checked to belong to the model. Raises CustomizationError with the remedy."""
    known = customizations()
    if name not in known:
        choices = ", ".join(known) or "none yet: teach one first"
        raise CustomizationError(f"customization: '{name}' does not exist or cannot be read; choose one of: {choices}.")
    found = known[name]
    if found.card.model_sha256 != denoiser_hash(preset):
        raise CustomizationError(
            f"customization: '{name}' was trained on another model than '{preset.name}' as it is now "
            f"(its card says '{found.card.model}'); choose that model or teach it again.")
    return found


def apply(backbone: Backbone, tensors: Mapping[str, Tensor]) -> None:
    """Put changed tensors into a backbone's denoiser, in place. Raises CustomizationError if they do not fit."""
    own = backbone.denoiser.state_dict()
    wrong = [name for name, value in tensors.items() if name not in own or own[name].shape != value.shape]
    if wrong:
        raise CustomizationError(
            f"customization: its tensor '{wrong[0]}' does not fit this model; choose the model it was trained on.")
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def save_customization(card: CustomizationCard, tensors: Mapping[str, Tensor], root: Path | None = None) -> Customization:
    """Write a customization (fp16) as one folder that appears complete or not at all, replacing one of that name.

    Raises CustomizationError if a value is not finite in fp16, OSError if the disk is full; what was there is kept.
    """
    root = root or home() / "customizations"
    target, staged = root / card.name, root / f".{card.name}.partial"
    weights = {name: value.detach().half().cpu().contiguous() for name, value in tensors.items()}
    if bad := [name for name, value in weights.items() if not torch.isfinite(value).all()]:
        raise CustomizationError(
            f"customization: '{card.name}' would hold values that are not numbers ({bad[0]}); lower the learning rate.")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        save_file(weights, staged / WEIGHTS, metadata={"spf_customization": card.model_dump_json()})
        (staged / CARD).write_text(card.model_dump_json(indent=2), encoding="utf-8")
        replace_folder(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Customization(card, target)


def changed_tensors(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors of `after` that differ from `before`."""
    return {name: value for name, value in after.items() if not torch.equal(value.cpu(), before[name].cpu())}


def _autoencoder_class(folder: Path):
    name = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))["_class_name"]
    return {"AutoencoderTiny": AutoencoderTiny, "AutoencoderKL": AutoencoderKL}[name]
