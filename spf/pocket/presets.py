"""What `python -m spf pretrain` can train: one YAML per preset in configs/pretrain. Every part resumes where it stopped."""

from __future__ import annotations

from pathlib import Path

import torch

from spf.config import CONFIGS, REPOSITORY, FlowPretrainConfig, PretrainConfig, RecogniserPretrainConfig, home, load_yaml, parse
from spf.errors import InvalidInput
from spf.pocket.flow_pretrain import FlowPretraining
from spf.pocket.parts import PartTraining
from spf.pocket.pretrain import Pretraining
from spf.pocket.recognition import RecogniserTraining


def pretrain(preset: str, parts: tuple[str, ...], minutes: float, device: torch.device, adopt: bool = False) -> bool:
    """Train the parts of a preset (all if none is named) for so long, then write what there is to assets/<preset>.

    `adopt`: where there is no checkpoint yet, go on from assets/<preset> instead of from nothing. Returns whether everything
    is trained to the end. Raises InvalidInput for an unknown preset or part.
    """
    known = _TRAININGS[type(pretrain_config(preset))].PARTS
    if unknown := [part for part in parts if part not in known]:
        raise InvalidInput("--part", f"'{unknown[0]}' is not known; choose from {', '.join(known)}")
    training = part_training(preset, device, minutes)
    if adopt:
        training.adopt(_exported(preset))
    done = training.run(parts)
    if training.complete:
        training.export(_exported(preset))
    return done


def part_training(preset: str, device: torch.device, minutes: float) -> PartTraining:
    """The training of a preset, with its checkpoints under home()/pretrain/<preset>."""
    config = pretrain_config(preset)
    if isinstance(config, FlowPretrainConfig):
        return FlowPretraining(config, _base(config.base, preset, device, minutes), _folder(preset), device, minutes)
    if isinstance(config, RecogniserPretrainConfig):
        return RecogniserTraining(config, part_training(config.base, device, minutes), _folder(preset), device, minutes)
    return Pretraining(config, _folder(preset), device, minutes)


def _base(name: str, preset: str, device: torch.device, minutes: float) -> Pretraining:
    """The preset that another builds on: as it was trained here, else as it is in assets.

    What is taken from assets stays the base of `preset` for good, in a folder of its own: training the base from nothing
    later begins from nothing, and does not take the autoencoder away under what was trained on it.
    """
    base, adopted = part_training(name, device, minutes), _folder(preset) / "base"
    if not _exported(name).is_dir() or (base.begun and not adopted.is_dir()):
        return base
    base = Pretraining(pretrain_config(name), adopted, device, minutes)
    base.adopt(_exported(name))
    return base


def pretrain_config(preset: str) -> PretrainConfig | FlowPretrainConfig | RecogniserPretrainConfig:
    """configs/pretrain/<preset>.yaml. Raises InvalidInput naming the presets that exist."""
    presets = {path.stem: path for path in sorted((CONFIGS / "pretrain").glob("*.yaml"))}
    if preset not in presets:
        raise InvalidInput("preset", f"'{preset}' is not known; choose one of {', '.join(presets)}")
    values = load_yaml(presets[preset])
    return parse(_SCHEMAS.get(values.get("family"), PretrainConfig), values)


def _exported(preset: str) -> Path:
    return REPOSITORY / "assets" / preset


def _folder(preset: str) -> Path:
    return home() / "pretrain" / preset


_TRAININGS = {PretrainConfig: Pretraining, FlowPretrainConfig: FlowPretraining, RecogniserPretrainConfig: RecogniserTraining}
_SCHEMAS = {"mmdit": FlowPretrainConfig, "recogniser": RecogniserPretrainConfig}
