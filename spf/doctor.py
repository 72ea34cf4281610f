"""What is installed and found here, what is missing, and how to get it. Loads no model and goes to no network."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from typing import Any

import psutil

from spf import clip, library
from spf.backbones import source
from spf.backbones.sizes import CLIP_BYTES, published_bytes
from spf.config import REPOSITORY, ModelPreset, home, model_preset, model_presets
from spf.errors import SpfError

_PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "open_clip_torch", "accelerate", "gradio", "pillow", "numpy")


def diagnose() -> dict[str, Any]:
    """A flat report; `problems` lists sentences that name a remedy, and is empty when all is well.

    A published model that was never downloaded is no problem: `models` says how much there is to download.
    """
    import torch

    memory = psutil.virtual_memory()
    models = {name: _state(name) for name in model_presets()}
    problems = [problem for _, problem in models.values() if problem]
    if memory.available < 2 << 30:
        problems.append("Less than 2 GB of memory are free; close other programs.")
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({torch.get_num_threads()} threads)",
        "memory_gb": {"total": round(memory.total / 2**30, 1), "available": round(memory.available / 2**30, 1)},
        "disk_free_gb": round(shutil.disk_usage(REPOSITORY).free / 2**30, 1),
        "home": str(home()),
        "models": {name: state for name, (state, _) in models.items()},
        "customizations": list(library.customizations()),
        "problems": problems,
    }


def _state(name: str) -> tuple[str, str | None]:
    """'found', 'missing' or what would be downloaded, and the problem if it is one."""
    try:
        preset = model_preset(name)
        if source.is_hub_id(preset.pretrained_model_name_or_path) and not source.is_downloaded(preset):
            return f"not downloaded: {to_download(preset)}", None
        source.require_model(preset)
    except SpfError as error:
        return "missing", f"model '{name}': {str(error).removeprefix('model: ')}"
    if (problem := clip.missing(preset.clip)) is not None:
        return "missing", f"model '{name}': {problem}."
    return "found", None


def to_download(preset: ModelPreset) -> str:
    """How much, and with which command. The size follows from the published architecture: nobody is asked."""
    own_clip = 0 if clip.missing(preset.clip) is None else CLIP_BYTES
    return f"{(published_bytes(preset) + own_clip) / 1e9:.1f} GB; get it with 'python -m spf download {preset.name}'"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed: run 'pip install -r requirements.txt'"
