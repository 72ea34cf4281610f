"""The loop that trains one embedded network: resumable, time-boxed, deterministic in (seed, step), with averaged weights."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from spf.config import ComponentConfig
from spf.errors import Cancelled, TrainingError

CHECKPOINT_SECONDS = 180
LOG_STEPS = 50

Loss = Callable[[int, torch.Generator], tuple[Tensor, dict[str, Tensor]]]


@dataclass
class Component:
    """A network, the loss of one step, and how to optimise it. `loss(step, generator)` draws its own batch."""

    name: str
    network: nn.Module
    loss: Loss
    config: ComponentConfig


@dataclass
class Progress:
    step: int = 0
    seconds: float = 0.0


def fit(component: Component, folder: Path, seed: int, ema_decay: float, deadline: float, device: torch.device,
        saved: Callable[[int], None] = lambda samples: None) -> bool:
    """Train until done or until `deadline` (time.monotonic()). Returns whether it is done.

    `component.network` then holds the averaged weights. State is kept in `folder`, so the next call goes on; `saved` is
    called with the samples seen after every checkpoint. Raises Cancelled when it is interrupted; the last checkpoint is kept.
    """
    config, network = component.config, component.network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{component.name}.pt"
    progress = _resume(path, component, optimizer, average, device)
    network.train()
    try:
        with _termination_interrupts():
            _train(component, optimizer, average, progress, path, seed, ema_decay, deadline, device, saved)
    except KeyboardInterrupt:
        raise Cancelled(f"{component.name}: interrupted at step {progress.step}; the same command goes on from step "
                        f"{progress_of(folder, component.name).step}, the last that was saved.") from None
    network.load_state_dict(average)
    network.eval()
    return progress.step >= steps_of(config)


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Whoever shuts the computer down, or kills the process, is told what Ctrl-C is told. Threads hear of no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def steps_of(config: ComponentConfig) -> int:
    return math.ceil(config.samples / config.batch_size)


def _train(component: Component, optimizer, average: dict[str, Tensor], progress: Progress, path: Path, seed: int,
           ema_decay: float, deadline: float, device: torch.device, saved: Callable[[int], None]) -> None:
    """Steps with averaging and a checkpoint every few minutes; the last step is always saved."""
    generator, steps = torch.Generator(device), steps_of(component.config)
    started, kept = time.monotonic() - progress.seconds, time.monotonic()
    with tqdm(total=steps, initial=progress.step, desc=component.name, unit="step", mininterval=5) as bar:
        while progress.step < steps and time.monotonic() < deadline:
            generator.manual_seed((seed * 1_000_003 + progress.step) % 2**63)
            _step(component, optimizer, progress.step, generator, path.parent, device)
            _blend(average, component.network, min(ema_decay, (1 + progress.step) / (10 + progress.step)))
            progress.step += 1
            progress.seconds = time.monotonic() - started
            bar.update()
            if time.monotonic() - kept > CHECKPOINT_SECONDS:
                _save(path, component, optimizer, average, progress)
                saved(progress.step * component.config.batch_size)
                kept = time.monotonic()
    _save(path, component, optimizer, average, progress)
    saved(progress.step * component.config.batch_size)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether bf16 is the faster arithmetic here; a CPU without instructions for it is several times slower than in fp32."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return device.type == "cuda"


def progress_of(folder: Path, name: str) -> Progress:
    """How far a component has come; zeros if it has not started."""
    path = folder / f"{name}.pt"
    return Progress(**torch.load(path, weights_only=True)["progress"]) if path.exists() else Progress()


def learning_rate(config: ComponentConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    seen = step * config.batch_size
    warm = min(1.0, (seen + config.batch_size) / max(config.warmup_samples, 1))
    return config.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, seen / config.samples))))


def _step(component: Component, optimizer, step: int, generator: torch.Generator, folder: Path, device) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(component.config, step)
    with torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bf16(device)):
        loss, report = component.loss(step, generator)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(component.network.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if step % LOG_STEPS == 0:
        values = {"component": component.name, "step": step, "samples": step * component.config.batch_size,
                  "loss": float(loss.detach()), **{name: float(value) for name, value in report.items()}}
        if not math.isfinite(values["loss"]):
            raise TrainingError(f"{component.name}: the loss is not finite at step {step}; lower its learning_rate.")
        with open(folder / "metrics.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(values) + "\n")


@torch.no_grad()
def _blend(average: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    for name, value in network.state_dict().items():
        if value.dtype.is_floating_point:
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)


def begin_from(path: Path, config: ComponentConfig, weights: dict[str, Tensor], samples: int, seconds: float) -> None:
    """The checkpoint of a network that was trained elsewhere on so many `samples`; its optimiser begins anew."""
    weights = {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
    progress = Progress(math.ceil(samples / config.batch_size), seconds)
    _write(path, {"config": config.model_dump(mode="json"), "network": weights, "average": weights, "optimizer": None,
                  "progress": vars(progress)})


def load_weights(network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Into `network`. Raises TrainingError naming the file if it is of another architecture."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise TrainingError(f"{path} does not fit the architecture that is configured ({str(error).splitlines()[1].strip()}); "
                            "restore that configuration, or move the file away to begin anew.") from None


def _save(path: Path, component: Component, optimizer, average, progress: Progress) -> None:
    if broken := [name for name, value in average.items() if not bool(torch.isfinite(value).all())]:
        raise TrainingError(
            f"{component.name}: '{broken[0]}' is not finite at step {progress.step}; lower its learning_rate. "
            f"The checkpoint before it is still {path}.")
    _write(path, {
        "config": component.config.model_dump(mode="json"), "network": component.network.state_dict(),
        "average": average, "optimizer": optimizer.state_dict(), "progress": vars(progress)})


def _write(path: Path, state: dict) -> None:
    staged = path.with_suffix(".partial")
    try:
        torch.save(state, staged)
        os.replace(staged, path)
    except (OSError, RuntimeError) as error:  # torch's own writer reports a full disk as RuntimeError
        staged.unlink(missing_ok=True)
        raise TrainingError(f"{path.stem}: {path} cannot be written ({str(error).splitlines()[0]}); free some space. "
                            "The checkpoint before it is intact, and the same command goes on from there.") from None


def finished(folder: Path, name: str, config: ComponentConfig) -> bool:
    """Whether a component is trained to the end. Raises TrainingError if that was with another configuration."""
    path = folder / f"{name}.pt"
    return path.exists() and _read(path, name, config, "cpu")["progress"]["step"] >= steps_of(config)


def _read(path: Path, name: str, config: ComponentConfig, device: torch.device | str) -> dict:
    state = torch.load(path, map_location=device, weights_only=True)
    if _recipe(state["config"]) != _recipe(config.model_dump(mode="json")):
        raise TrainingError(
            f"{path} was trained with another configuration of '{name}'; "
            "restore that configuration, or move the file away to begin anew.")
    return state


def _resume(path: Path, component: Component, optimizer, average, device) -> Progress:
    if not path.exists():
        return Progress()
    state = _read(path, component.name, component.config, device)
    load_weights(component.network, state["network"], path)
    if state["optimizer"]:
        optimizer.load_state_dict(state["optimizer"])
    for name, value in state["average"].items():
        average[name].copy_(value)
    return Progress(**state["progress"])


def _recipe(config: dict) -> dict:
    """What must not change between two calls; `samples` may: training then simply goes on for longer."""
    return {name: value for name, value in config.items() if name != "samples"}
