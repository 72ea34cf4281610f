"""What an exported file says about itself: ModelSpec 1.0.0, the `ss_*` keys that LoRA tools read, and our own `spf_*`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import spf
from spf.config import ModelPreset
from spf.library import CustomizationCard

_ARCHITECTURES = {"unet": "stable-diffusion-v1", "mmdit": "stable-diffusion-v3.5-medium"}
_PREDICTIONS = {"unet": "epsilon", "mmdit": "flow"}
_IMPLEMENTATION = {"unet": "https://github.com/CompVis/stable-diffusion", "mmdit": "https://github.com/Stability-AI/sd3.5"}


def model_metadata(card: CustomizationCard, preset: ModelPreset) -> dict[str, str]:
    """Of a whole model, or a delta to one."""
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": _ARCHITECTURES[preset.family],
        "modelspec.implementation": _IMPLEMENTATION[preset.family],
        "modelspec.title": card.name,
        "modelspec.description": f"{preset.title}, taught: {', '.join(card.phrases)}",
        "modelspec.trigger_phrase": ", ".join(card.phrases),
        "modelspec.resolution": f"{preset.resolution}x{preset.resolution}",
        "modelspec.prediction_type": _PREDICTIONS[preset.family],
        "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "spf_version": spf.__version__,
        "spf_customization": card.model_dump_json(),
        "spf_base_sha256": card.model_sha256,
    }


def lora_metadata(card: CustomizationCard, preset: ModelPreset, rank: int, error: float) -> dict[str, str]:
    """Of a LoRA of this rank whose relative reconstruction error is `error` (0 exact, 1 nothing of it)."""
    return model_metadata(card, preset) | {
        "modelspec.architecture": f"{_ARCHITECTURES[preset.family]}/lora",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_base_model_version": {"unet": "sd_v1", "mmdit": "sd3"}[preset.family],
        "ss_v2": "False",
        "ss_output_name": card.name,
        "ss_num_train_images": str(card.summary.get("pictures", 0)),
        "ss_training_comment": f"singular values of a full fine-tuning by {spf.__name__}; relative error {error:.4f}",
        "spf_reconstruction_error": f"{error:.6f}",
    }


def card_of(metadata: Mapping[str, str]) -> CustomizationCard:
    """The card that an exported file carries. ValueError if it carries none that can be read."""
    return CustomizationCard(**json.loads(metadata["spf_customization"]))
