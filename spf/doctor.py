"""What is installed and found here, what is missing, and how to get it. Loads no model and goes to no network."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Mapping
from typing import Any

import psutil

from spf import clip, library
from spf.backbones import loading, source
from spf.backbones.sizes import CLIP_BYTES, published_bytes
from spf.config import REPOSITORY, ModelPreset, home, model_preset, model_presets
from spf.errors import SpfError
from spf.files import probe

_PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "open_clip_torch", "accelerate", "gradio", "pillow", "numpy")


def diagnose() -> dict[str, Any]:
    """A flat report; `problems` lists sentences that name a remedy, and is empty when all is well.

    A published model that was never downloaded is no problem: `models` says how much there is to download.
    """
    import torch

    memory = psutil.virtual_memory()
    models = {name: _state(name) for name in model_presets()}
    problems = [problem for _, problem in models.values() if problem]
    try:
        probe(home() / "customizations")
    except OSError as error:
        problems.append(f"Nothing can be kept in {home()} ({error.strerror or error}); let SPF_HOME name a folder that can be "
                        "written.")
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


def as_text(report: Mapping[str, Any]) -> str:
    """The report for a person: what belongs together below each other, problems as sentences at the end."""
    memory, names = report["memory_gb"], report["customizations"]
    facts = {
        "Python": report["python"], "Device": report["device"],
        "Memory": f"{memory['available']:.1f} of {memory['total']:.1f} GB free", "Disk": f"{report['disk_free_gb']:.1f} GB free",
        "Your data": report["home"], "Customizations": ", ".join(names) or "none yet: teach one"}
    parts = [_aligned(facts)] + [[f"{title}:", *_aligned(report[title.lower()], "  ")] for title in ("Packages", "Models")]
    problems = ["Problems:", *(f"  - {problem}" for problem in report["problems"])]
    return "\n\n".join("\n".join(part) for part in [*parts, problems if report["problems"] else ["No problems."]])


def _aligned(values: Mapping[str, str], indent: str = "") -> list[str]:
    """One line for each, the values below each other."""
    width = max(map(len, values), default=0)
    return [f"{indent}{name:{width}}  {value}" for name, value in values.items()]


def _state(name: str) -> tuple[str, str | None]:
    """'found', 'missing' or what would be downloaded, and the problem if it is one."""
    try:
        preset = model_preset(name)
        if source.is_hub_id(preset.pretrained_model_name_or_path) and not source.is_downloaded(preset):
            return f"not downloaded: {to_download(preset)}", None
        loading.require_whole(preset, source.require_model(preset))
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
