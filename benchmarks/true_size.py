"""One training step at a model's true size, beside a plain diffusers fine-tuning step: time and peak memory, or a count.

    python benchmarks/true_size.py --model sd15 --device cuda --dtype bf16 [--batch 2] [--side 512] [--rounds 5] [--steps 5]
    python benchmarks/true_size.py --model sd15 --count [--batch 2] [--side 512]

No checkpoint is needed: the networks are built from the model's configurations (`configs/architectures/` for what is not on
this computer) and filled with random numbers, which costs as much as trained ones; nothing here says how good anything is.

Measured: every row in a process of its own, one row after the other and then the next round, so that a machine that changes
its pace changes it for all. After one step that warms up, `--steps` are timed (wall clock, and processor time beside it).
Reported are medians, quartiles, and lowest, median and highest of the rounds' ratios to the plain step; where other programs
use the machine too, processor time is the one to look at. The peak is what the process takes
from its first weight on: `torch.cuda.max_memory_allocated`, on a CPU the resident set, holes of the allocator included.

Counted (--count): floating point operations of a step's forward and backward, and bytes of weights, gradients, moments and
what else is alive, on tensors that have shapes and no memory. Convolutions and matrix products count, the rest does not.

Rows: `plain` does what diffusers' own fine-tuning scripts do: it encodes pictures in the step (of the U-Net family texts
too; the script of the other family encodes them once), trains all of the denoiser with AdamW, and clips gradients. Our stages
take encoded pictures and texts, as a run does, and leave out what `offload=true` puts elsewhere. `stage 2` aligns against an
original with weights of its own, as after a first stage that trained everything; `shared` has one backbone, `tiny` the tiny
autoencoder in L_enhanced, `lean` all of that, gradient checkpointing, and the reference in bf16.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

import spf  # noqa: E402, F401, I001
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from memory import peak_resident, settled_resident  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils import flop_counter  # noqa: E402

from spf import config, plan  # noqa: E402
from spf.backbones import autoencoder, sizes  # noqa: E402
from spf.backbones.base import Backbone  # noqa: E402
from spf.clip import Clip  # noqa: E402
from spf.config import MethodConfig, ModelPreset  # noqa: E402
from spf.training.stages import DualPathStage, FineTuneStage, set_trainable  # noqa: E402

LEARNING_RATE, MAX_NORM, TOKENS = 1e-5, 1.0, 77


@dataclass(frozen=True)
class Row:
    """One kind of step; `option` None is the plain one."""

    option: plan.Option | None = None
    shared: bool = False  # one backbone for both paths
    reference_bf16: bool = False


ROWS = {
    "plain": Row(),
    "stage 1": Row(plan.Option(1, "full")),
    "stage 1 cross": Row(plan.Option(1, "cross"), shared=True),
    "stage 2": Row(plan.Option(2, "cross")),
    "stage 2 shared": Row(plan.Option(2, "cross"), shared=True),
    "stage 2 tiny": Row(plan.Option(2, "cross", tiny_autoencoder=True), shared=True),
    "stage 2 lean": Row(plan.Option(2, "cross", gradient_checkpointing=True, tiny_autoencoder=True), True, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="of the step; weights stay in fp32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--side", type=int, help="of the pictures, in pixels; the model's if left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--count", action="store_true", help="count instead of measuring; takes no memory")
    parser.add_argument("--one", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    preset = preset_of(asked.model)
    side = asked.side or preset.resolution
    if asked.one:
        return print(json.dumps(measure(preset, ROWS[asked.one], asked.batch, side, asked.device, asked.dtype == "bf16",
                                        asked.steps)))
    rows = ({name: count(preset, ROWS[name], asked.batch, side) for name in asked.rows} if asked.count else
            summary(rounds(asked)))
    report = {"model": asked.model, "side": side, "batch": asked.batch, "torch": torch.__version__,
              **({} if asked.count else {"device": device_name(asked.device), "dtype": asked.dtype, "rounds": asked.rounds}),
              "rows": with_ratios(rows)}
    text = json.dumps(report, indent=2)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")


def preset_of(model: str) -> ModelPreset:
    """With weights in fp32, whatever the model is drawn in: they are what AdamW moves."""
    return config.model_preset(model).model_copy(update={"dtype": "fp32"})


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def rounds(asked: argparse.Namespace) -> dict[str, list[dict]]:
    """What each row's processes measured, one of every row after the other."""
    command = [sys.executable, __file__, *(f"--{name}={getattr(asked, name)}" for name in ("model", "device", "dtype", "batch",
                                                                                          "steps"))]
    command += [f"--side={asked.side}"] if asked.side else []
    measured: dict[str, list[dict]] = {name: [] for name in asked.rows}
    for _ in range(asked.rounds):
        for name in asked.rows:
            done = subprocess.run([*command, "--one", name], env=dict(os.environ), stdout=subprocess.PIPE, text=True, check=True)
            measured[name].append(json.loads(done.stdout.splitlines()[-1]))
    return measured


def summary(measured: dict[str, list[dict]]) -> dict[str, dict]:
    """Median and quartiles of all steps, the highest peak, and how many times the plain step of its round each row takes."""
    rows: dict[str, dict] = {}
    for name, processes in measured.items():
        rows[name] = {"peak_gb": round(max(process["peak_bytes"] for process in processes) / 1e9, 3)}
        for clock in ("seconds", "processor_seconds"):
            rows[name][clock] = _quartiles([value for process in processes for value in process[clock]])
            if "plain" in measured:
                ratios = [statistics.median(own[clock]) / statistics.median(plain[clock])
                          for own, plain in zip(processes, measured["plain"], strict=True)]
                rows[name][f"{clock}_over_plain"] = [
                    round(value, 3) for value in (min(ratios), statistics.median(ratios), max(ratios))]
    return rows


def _quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": round(middle, 4), "quartiles": [round(low, 4), round(high, 4)]}


def with_ratios(rows: dict[str, dict]) -> dict[str, dict]:
    """Each row with its operations and peak as parts of the plain step's."""
    plain = rows.get("plain", {})
    return {name: row | {f"{what}_over_plain": round(row[key] / plain[key], 3)
                         for what, key in (("operations", "giga_operations"), ("peak", "peak_gb")) if key in row and key in plain}
            for name, row in rows.items()}


def measure(preset: ModelPreset, row: Row, batch: int, side: int, device: str, bf16: bool, steps: int) -> dict:
    """Seconds of every timed step, and the most memory that the process took for weights and steps."""
    torch.manual_seed(0)
    where = torch.device(device)
    before = _settled(where)
    with _precision(where, bf16):
        step = step_of(preset, row, batch, side, where)
        step()
        seconds, processor = [], []
        for _ in range(steps):
            _synchronise(where)
            started, busy = time.perf_counter(), time.process_time()
            step()
            _synchronise(where)
            seconds.append(time.perf_counter() - started)
            processor.append(time.process_time() - busy)
    peak = torch.cuda.max_memory_allocated() if where.type == "cuda" else peak_resident() - before
    return {"seconds": seconds, "processor_seconds": processor, "peak_bytes": peak}


def _settled(where: torch.device) -> int:
    if where.type != "cuda":
        return settled_resident()
    torch.cuda.reset_peak_memory_stats()
    return 0


def _synchronise(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize()


def _precision(where: torch.device, bf16: bool):
    return torch.autocast(where.type, torch.bfloat16) if bf16 else nullcontext()


def step_of(preset: ModelPreset, row: Row, batch: int, side: int, where: torch.device) -> Callable[[], None]:
    """A whole training step, optimizer included."""
    networks, clip = empty_networks(preset, row)
    for network in networks.values():
        filled(network, where)
    if "clip" in networks:
        clip.to(where)
    paths = paths_of(preset, row, networks)
    with where:
        losses, trained = losses_of(row, networks, clip, paths, batch, side)
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=row.option is not None or None)  # the scripts' is not fused

    def step() -> None:
        losses().backward()
        nn.utils.clip_grad_norm_(trained, MAX_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def empty_networks(preset: ModelPreset, row: Row) -> tuple[dict[str, nn.Module], Clip]:
    """What the row's step calls, on the meta device; and the CLIP, whose network is among it in a second stage."""
    networks, clip = plan.empty_networks(preset, row.option or plan.Option(1, "full")), plan.empty_clip(preset)
    if row.option is None and preset.family == "unet":
        networks["text_encoder"] = sizes.unshared(plan.folder_of(preset) / "text_encoder")
    if row.option is not None and row.option.stage == 1:
        del networks["vae"]
    if row.option is not None and row.option.stage == 2:
        networks["clip"] = clip.model
    return networks, clip


def filled(network: nn.Module, where: torch.device) -> None:
    """Random weights small enough that everything stays finite; zeros where a network keeps tables."""
    network.to_empty(device=where)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.02)
        for buffer in network.buffers():
            buffer.zero_()
    network.eval().requires_grad_(False)


def paths_of(preset: ModelPreset, row: Row, networks: dict[str, nn.Module]) -> tuple[Backbone, Backbone]:
    """Reference and response path. In a first stage the reference waits elsewhere, or is the same."""
    vae = networks.get("vae") or plan.empty_networks(preset, row.option)["vae"]  # a first stage asks it for sizes only
    reference = plan.backbone_of(preset, {"denoiser": networks["denoiser"], "vae": vae})
    if row.option is None or row.option.stage == 1:
        return reference, reference
    names = {name for name, _ in reference.trainable_parameters(row.option.trainable)}
    return reference, reference.fork(names if row.shared else None)


def losses_of(row: Row, networks: dict[str, nn.Module], clip: Clip, paths: tuple[Backbone, Backbone], batch: int, side: int,
              ) -> tuple[Callable[[], Tensor], list[nn.Parameter]]:
    """(the loss of one step as a function, what is trained); real networks or fake ones, as they come."""
    response = paths[1]
    if row.option is None:
        return plain_losses(response, networks.get("text_encoder"), batch, side), set_trainable(response, "full")
    return our_losses(row, clip, *paths, batch, side), set_trainable(response, row.option.trainable)


def plain_losses(backbone: Backbone, text_encoder: nn.Module | None, batch: int, side: int) -> Callable[[], Tensor]:
    """Eq. 1 as diffusers' scripts compute it, from pixels (and tokens)."""
    pixels, text = torch.zeros(batch, 3, side, side), plan.text_features(backbone, batch)
    tokens = torch.zeros(batch, TOKENS, dtype=torch.long)
    objective = backbone.objective

    def losses() -> Tensor:
        with torch.no_grad():
            x_0 = autoencoder.encode(backbone.vae, pixels)
            states = text.embeddings if text_encoder is None else text_encoder(tokens).last_hidden_state
        noise, t = torch.randn_like(x_0), objective.sample_timesteps(batch, torch.Generator(), x_0.device)
        x_t, target = objective.add_noise(x_0, noise, t), objective.target(x_0, noise, t)
        if text_encoder is None:
            prediction = backbone.denoiser(x_t, states, text.pooled, t).sample
        else:
            prediction = backbone.denoiser(x_t, t, states).sample
        return F.mse_loss(prediction.float(), target.float())

    return losses


def our_losses(row: Row, clip: Clip, reference: Backbone, response: Backbone, batch: int, side: int) -> Callable[[], Tensor]:
    examples = plan.examples(reference, clip, batch, side)
    if row.option.gradient_checkpointing:
        response.enable_gradient_checkpointing()
    empty = examples.base[[0]]
    stage = (FineTuneStage(response, empty) if row.option.stage == 1 else
             DualPathStage(reference, response, clip, MethodConfig(), empty, reference_bf16=row.reference_bf16))
    return lambda: sum(stage.training_forward(examples, torch.Generator())[0].values())


def count(preset: ModelPreset, row: Row, batch: int, side: int) -> dict:
    """Operations of one forward and backward, and the bytes that a step with AdamW holds at most."""
    mode, (networks, clip) = FakeTensorMode(allow_non_fake_inputs=True), empty_networks(preset, row)
    for network in networks.values():
        plan.become_fake(network, mode)
    paths = paths_of(preset, row, networks)
    with mode:
        losses, trained = losses_of(row, networks, clip, paths, batch, side)
        held = {id(module): module for module in (*networks.values(), *(path.denoiser for path in paths))}.values()
        weights = list({id(tensor): tensor for module in held for tensor in (*module.parameters(), *module.buffers())}.values())
        with plan.LiveBytes(weights) as live, operations() as counted:
            losses().backward()
    own = sum(tensor.numel() * tensor.itemsize for tensor in weights)
    moments = 8 * sum(parameter.numel() for parameter in trained)
    return {"giga_operations": round(counted.get_total_flops() / 1e9, 1), "peak_gb": round((own + moments + live.peak) / 1e9, 3),
            "weights_gb": round(own / 1e9, 3), "trained_million": round(moments / 8e6, 1)}


@contextmanager
def operations() -> Iterator[flop_counter.FlopCounterMode]:
    """Counts what runs inside; torch knows the attention kernels of graphics cards, so the CPU's are told here."""
    def forward(query, key, value, *args, out_shape=None, **kwargs) -> int:
        return flop_counter.sdpa_flop_count(query, key, value)

    def backward(grad, query, key, value, *args, out_shape=None, **kwargs) -> int:
        return flop_counter.sdpa_backward_flop_count(grad, query, key, value)

    kernels = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: forward,
               torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward}
    with flop_counter.FlopCounterMode(display=False, custom_mapping=kernels) as counted:
        yield counted


if __name__ == "__main__":
    main()
