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


def pretrain(preset: str, parts: tuple[str, ...], minutes: float, device: torch.device) -> bool:
    """Train the parts of a preset (all if none is named) for so long, then write what there is to assets/<preset>.

    Returns whether everything is trained to the end. Raises InvalidInput for an unknown preset or part.
    """
    known = (FlowPretraining if isinstance(pretrain_config(preset), FlowPretrainConfig) else Pretraining).PARTS
    if unknown := [part for part in parts if part not in known]:
        raise InvalidInput("--part", f"'{unknown[0]}' is not known; choose from {', '.join(known)}")
    training = part_training(preset, device, minutes)
    done = training.run(parts)
    if training.complete:
        training.export(REPOSITORY / "assets" / preset)
    return done


def part_training(preset: str, device: torch.device, minutes: float) -> PartTraining:
    """The training of a preset, with its checkpoints under home()/pretrain/<preset>."""
    config = pretrain_config(preset)
    if isinstance(config, FlowPretrainConfig):
        base = part_training(config.base, device, minutes)
        return FlowPretraining(config, base, _folder(preset), device, minutes)
    if isinstance(config, RecogniserPretrainConfig):
        base = part_training(config.base, device, minutes)
        return RecogniserTraining(config, base, _folder(preset), device, minutes)
    return Pretraining(config, _folder(preset), device, minutes)


def pretrain_config(preset: str) -> PretrainConfig | FlowPretrainConfig | RecogniserPretrainConfig:
    """configs/pretrain/<preset>.yaml. Raises InvalidInput naming the presets that exist."""
    presets = {path.stem: path for path in sorted((CONFIGS / "pretrain").glob("*.yaml"))}
    if preset not in presets:
        raise InvalidInput("preset", f"'{preset}' is not known; choose one of {', '.join(presets)}")
    values = load_yaml(presets[preset])
    return parse(_SCHEMAS.get(values.get("family"), PretrainConfig), values)


def _folder(preset: str) -> Path:
    return home() / "pretrain" / preset


_SCHEMAS = {"mmdit": FlowPretrainConfig, "recogniser": RecogniserPretrainConfig}
