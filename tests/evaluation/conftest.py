"""Evaluations of the tiny model with an untrained recogniser: they prove that the work is done once and told rightly."""

import json

import pytest
import torch
from safetensors.torch import save_file

from spf.backbones import checkpoints
from spf.config import EvaluationConfig, parse
from spf.evaluation.run import Evaluation
from spf.library import CustomizationCard
from spf.pocket import recogniser, renderer

VALUES = {
    "name": "check", "model": "tiny", "preset": "tiny", "targets": ["winter-hat"], "triples": 3, "pictures": 8,
    "batch_size": 2, "resamples": 20, "sheet_rows": 2,
    "methods": {
        "standard": {"title": "Standard", "train": {"stage": "1"}},
        "spf": {"title": "Ours", "start": "standard", "train": {"stage": "2"}},
    },
    "tables": {"1": {"title": "Comparison", "rows": ["standard", "spf"]}},
}


@pytest.fixture
def values():
    """The settings of a small evaluation, as a file would hold them."""
    return dict(VALUES)


@pytest.fixture(scope="session")
def _ruler(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recogniser")
    architecture = {"widths": [4, 4, 4, 4], "features": 6, "reduced": 2, "decoder": 4}
    torch.manual_seed(0)
    save_file(recogniser.RecogniserNetwork(**architecture).state_dict(), folder / recogniser.WEIGHTS)
    (folder / recogniser.CONFIG).write_text(json.dumps(recogniser.config_dict(architecture)))
    return folder


@pytest.fixture
def ruler(_ruler, monkeypatch):
    """A folder with an untrained recogniser, in the place of the committed one."""
    monkeypatch.setattr(recogniser, "FOLDER", _ruler)
    return _ruler


class Trainer:
    """Stands in for a training run: writes weights that depend on what it was asked for, and remembers it."""

    def __init__(self, preset):
        self.preset, self.calls = preset, []

    def __call__(self, values, library):
        self.calls.append(values)
        backbone = checkpoints.load_backbone(self.preset)
        before = {name: tensor.clone() for name, tensor in backbone.denoiser.state_dict().items()}
        generator = torch.Generator().manual_seed(len(self.calls))
        for _, parameter in backbone.trainable_parameters("cross"):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.5)
        card = CustomizationCard(name=values["name"], model="tiny", model_sha256=checkpoints.denoiser_hash(self.preset),
                                 phrases=("a winter hat",), stage="1", created="now", summary={"seconds": 60})
        checkpoints.save_customization(
            card, checkpoints.changed_tensors(before, backbone.denoiser.state_dict()), library / "customizations")


@pytest.fixture
def trainer(tiny):
    return Trainer(tiny)


@pytest.fixture
def make(tiny, ruler, trainer):
    """make(triples=5, ...): an evaluation with some settings changed."""
    def evaluation(**changes) -> Evaluation:
        return Evaluation(settings(**changes), torch.device("cpu"), trainer)

    return evaluation


def settings(**changes) -> EvaluationConfig:
    return parse(EvaluationConfig, {**VALUES, **changes})


target_region = renderer.target_region


def quick_region(*arguments, **keywords):
    """From a few portraits: 128 take seconds."""
    return target_region(*arguments, **keywords, count=6)


@pytest.fixture(autouse=True)
def quick_regions(monkeypatch):
    monkeypatch.setattr(renderer, "target_region", quick_region)
