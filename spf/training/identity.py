"""What must be the same for a run to go on: model, pictures, method, precision. Looked at before anything is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spf.backbones import checkpoints
from spf.backbones.source import tiny_vae_folder
from spf.config import ModelPreset, StageConfig, TrainConfig
from spf.data.records import Record
from spf.errors import InvalidInput, ResumeRefused
from spf.training.checkpoint import Position
from spf.training.loop import global_batch

STAGES = ("stage1", "stage2")
SMALLEST_SPLIT = 8  # fewer pictures are all trained on
# How often something is written or looked at, and what a run is called: none of it changes what is learned.
_FREE = {"name", "data", "sample_every", "sample_seeds", "log_every", "checkpoint_every", "checkpoints_kept", "validate_every",
         "early_stop_patience", "divergence_factor", "report_to", "gradient_checkpointing", "offload", "cache_gb"}
# In the identity only of runs that use them: checkpoints of earlier versions know nothing of them.
_NEW = {"reference_precision", "tiny_decoder", "aspect_ratio_buckets"}


def identity(config: TrainConfig, preset: ModelPreset, records: Sequence[Record], processes: int) -> dict[str, Any]:
    """Dotted names and plain values. Learning rate and length of a stage are left out: they may change on the way."""
    values = config.model_dump(mode="json", exclude={*_FREE, *_NEW, *STAGES})
    for name in STAGES:
        stage: StageConfig = getattr(config, name)
        values[name] = {"trainable": stage.trainable, "global_batch": global_batch(stage, processes)}
        if stage.use_8bit_adam:  # its moments are no others'
            values[name]["use_8bit_adam"] = True
    if config.reference_precision != "no":
        values["reference_precision"] = config.reference_precision
    if config.aspect_ratio_buckets:
        values["aspect_ratio_buckets"] = True
    if config.tiny_decoder:
        values["enhanced_decoder"] = enhanced_decoder(preset)
    return _flat(values) | {
        "model_sha256": checkpoints.denoiser_hash(preset), "resolution": preset.resolution, "data_sha256": data_sha256(records)}


def enhanced_decoder(preset: ModelPreset) -> str:
    """What decodes for L_enhanced in a run that asks for a tiny decoder: 'tiny', or the model's 'own' where there is none."""
    return "own" if tiny_vae_folder(preset) is None else "tiny"


def data_sha256(records: Sequence[Record]) -> str:
    """SHA-256 of pictures and texts in their order; where the folder lies and what its files are called is left out."""
    total = hashlib.sha256()
    for record in records:
        with open(record.path, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
        for text in (record.base_text, record.target_text):
            total.update(len(text.encode()).to_bytes(8, "big") + text.encode())
    return total.hexdigest()


def require_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ResumeRefused naming everything that differs."""
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        told = "; ".join(f"{name} was {_short(before.get(name))}, now it is {_short(now.get(name))}" for name in changed)
        raise ResumeRefused(f"resume: {told}; restore what differs, or start a new run.")


def on_these_devices(config: TrainConfig, position: Position, processes: int) -> TrainConfig:
    """The settings of a run that goes on with another number of processes: the global batch stays as it was.

    Raises ResumeRefused where it cannot be divided evenly.
    """
    return config.model_copy(update={
        name: _fitted(name, getattr(config, name), position, processes) for name in STAGES})


def _fitted(name: str, stage: StageConfig, position: Position, processes: int) -> StageConfig:
    if position.processes == processes:
        return stage
    whole = global_batch(stage, position.processes)
    batch, rest = divmod(whole, stage.gradient_accumulation_steps * processes)
    if rest:
        raise ResumeRefused(
            f"resume: {name} has {whole} samples per step, which {processes} processes cannot share evenly; "
            f"start as many processes as before ({position.processes}), or a number that divides {whole}.")
    return stage.model_copy(update={"train_batch_size": batch})


def split(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows to train on and rows held out, each in order; nothing is held out of fewer than SMALLEST_SPLIT pictures."""
    held = round(count * share) if count >= SMALLEST_SPLIT else 0
    chosen = set(np.random.default_rng((seed, count)).permutation(count)[:held].tolist())
    return [row for row in range(count) if row not in chosen], sorted(chosen)


def require_held_out(config: TrainConfig, count: int) -> None:
    """Raises InvalidInput where early stopping is asked for and no picture is left to judge by."""
    if config.early_stop_patience and not split(count, config.validation_split, config.seed)[1]:
        raise InvalidInput("early_stop_patience", (
            f"needs pictures to validate on, and of {count} with validation_split {config.validation_split:g} none is held "
            f"out; give {SMALLEST_SPLIT} or more, raise validation_split, or set it to 0"))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "..."
