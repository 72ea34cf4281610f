"""Predicted against measured peak memory of a training step, on models that this machine can train.

    python benchmarks/memory.py [--model pocket] [--batch 16] [--out FILE]

Each option runs in a process of its own: the stages of spf/training/stages.py with AdamW, for three steps. Measured is how
far the resident set grows at most after the models are loaded and one picture was stepped through, so that the code which
libraries load at first use is there already; predicted is what `doctor --plan` counts for that: Adam's moments and the step.
Weights follow from the parameter counts; that loading them takes no more is not measured here.

Measured twice: with every tensor given back to the system when it dies (MALLOC_MMAP_THRESHOLD_), which is what is predicted,
and as the C library does by default, which keeps holes between tensors.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import spf  # noqa: E402, F401, I001
import psutil  # noqa: E402
import torch  # noqa: E402

from spf import config, plan  # noqa: E402
from spf.backbones.checkpoints import load_backbone  # noqa: E402
from spf.clip import Clip  # noqa: E402
from spf.config import MethodConfig  # noqa: E402
from spf.data.batches import Examples  # noqa: E402
from spf.training.stages import DualPathStage, FineTuneStage, Stage  # noqa: E402

OPTIONS = (plan.Option(1, "full"), plan.Option(1, "cross"), plan.Option(1, "full", gradient_checkpointing=True),
           plan.Option(2, "cross"), plan.Option(2, "full"))
STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        return print(measure(options.model, options.batch, OPTIONS[options.measure]))
    rows = [compare(options.model, options.batch, index) for index in range(len(OPTIONS))]
    text = json.dumps({"model": options.model, "batch": options.batch, "torch": torch.__version__, "rows": rows}, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def compare(model: str, batch: int, index: int) -> dict:
    """One option: predicted and measured bytes, and how far the prediction is off."""
    command = [sys.executable, __file__, "--model", model, "--batch", str(batch), "--measure", str(index)]
    measured, default = (int(subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, check=True)
                             .stdout.split()[-1]) for more in ({"MALLOC_MMAP_THRESHOLD_": "65536"}, {}))
    preset = config.model_preset(model)
    parts = plan.predict(preset, OPTIONS[index], batch, preset.resolution)
    predicted = parts["adam"] + parts["step"]
    return {"option": str(OPTIONS[index]), "predicted_mb": round(predicted / 1e6, 1), "measured_mb": round(measured / 1e6, 1),
            "error_percent": round(100 * (predicted / measured - 1), 1), "default_allocator_mb": round(default / 1e6, 1)}


def measure(model: str, batch: int, option: plan.Option) -> int:
    """Bytes by which the resident set grows at most while `STEPS` steps are taken."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    preset = config.model_preset(model)
    reference, clip = load_backbone(preset), Clip.load(preset.clip)
    response = reference.fork()
    trained = [parameter.requires_grad_(True) for _, parameter in response.trainable_parameters(option.trainable)]
    if option.gradient_checkpointing:
        response.enable_gradient_checkpointing()
    examples = plan.examples(response, clip, batch, preset.resolution)
    empty = examples.base[[0]]
    stage = (FineTuneStage(response, empty) if option.stage == 1 else
             DualPathStage(reference, response, clip, MethodConfig(), empty))
    take_steps(stage, examples[[0]], trained, 1)
    before = settled_resident()
    take_steps(stage, examples, trained, STEPS)
    return peak_resident() - before


def take_steps(stage: Stage, examples: Examples, trained: list[torch.nn.Parameter], count: int) -> None:
    """Steps of a new optimizer, which is gone at the end."""
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    for _ in range(count):
        losses, _ = stage.training_forward(examples, torch.Generator().manual_seed(0))
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()


def settled_resident() -> int:
    """Bytes in memory now, after what was freed is given back; the peak counts anew from here (Linux)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def peak_resident() -> int:
    """Bytes; the most this process had in memory since the last `settled_resident` (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
