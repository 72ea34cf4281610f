"""What is installed and found here, what is missing, and how to get it. Loads no model and goes to no network."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from typing import Any

import psutil

from spf import clip, library
from spf.backbones import checkpoints
from spf.config import REPOSITORY, home, model_preset, model_presets

_PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "open_clip_torch", "accelerate", "gradio", "pillow", "numpy")


def diagnose() -> dict[str, Any]:
    """A flat report; `problems` lists sentences that name a remedy, and is empty when all is well."""
    import torch

    memory = psutil.virtual_memory()
    models = {name: _model_problem(name) for name in model_presets()}
    problems = [problem for problem in models.values() if problem]
    if memory.available < 2 << 30:
        problems.append("Less than 2 GB of memory are free; close other programs.")
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({torch.get_num_threads()} threads)",
        "memory_gb": {"total": round(memory.total / 2**30, 1), "available": round(memory.available / 2**30, 1)},
        "disk_free_gb": round(shutil.disk_usage(REPOSITORY).free / 2**30, 1),
        "home": str(home()),
        "models": {name: "found" if problem is None else "missing" for name, problem in models.items()},
        "customizations": list(library.customizations()),
        "problems": problems,
    }


def _model_problem(name: str) -> str | None:
    preset = model_preset(name)
    missing = checkpoints.missing_file(preset) or clip.missing_file(REPOSITORY / preset.clip)
    if missing is None:
        return None
    return f"model '{name}': {missing} is missing; restore it, or run 'python -m spf pretrain {name}'."


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed: run 'pip install -r requirements.txt'"
