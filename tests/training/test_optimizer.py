"""Which optimizer a stage gets, what is said where its package is missing, and that its state survives a checkpoint."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spf import config
from spf.backbones.trainables import Learner
from spf.errors import InvalidInput
from spf.training import checkpoint, identity
from spf.training.checkpoint import Position
from spf.training.optimizer import optimizer_for, require_optimizer
from spf.training.run import Run
from spf.training.run_folder import RunFolder


class CountingAdamW(torch.optim.AdamW):
    """Keeps its number of steps as a plain number, as AdamW8bit of bitsandbytes does."""

    __setstate__ = torch.optim.Optimizer.__setstate__  # AdamW's own would make it a tensor again

    def step(self, closure=None):
        for state in self.state.values():
            assert isinstance(state["step"], int)
            state["step"] = torch.tensor(float(state["step"]))
        super().step(closure)
        for state in self.state.values():
            state["step"] = int(state["step"])


@pytest.fixture
def bitsandbytes(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(optim=SimpleNamespace(AdamW8bit=CountingAdamW)))


@pytest.fixture
def no_bitsandbytes(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)


def stepped(network, optimizer):
    network(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_settings_reach_the_optimizer_that_is_asked_for(stage_config, bitsandbytes):
    parameters = list(nn.Linear(3, 2).parameters())
    for asked, kind in ((False, torch.optim.AdamW), (True, CountingAdamW)):
        made = optimizer_for(parameters, stage_config(use_8bit_adam=asked, adam_beta1=0.5, adam_weight_decay=0.3))
        (group,) = made.param_groups
        assert type(made) is kind
        assert (group["lr"], group["betas"], group["weight_decay"], group["params"]) == (1e-3, (0.5, 0.999), 0.3, parameters)


def test_a_missing_package_is_named(stage_config, no_bitsandbytes):
    require_optimizer(stage_config())
    for refuse in (require_optimizer, lambda asked: optimizer_for([], asked)):
        with pytest.raises(InvalidInput, match="use_8bit_adam: needs the package 'bitsandbytes'.*pip install bitsandbytes"):
            refuse(stage_config(use_8bit_adam=True))


def test_a_run_is_refused_before_anything_is_loaded(tiny, picture_folder, spf_home, no_bitsandbytes, monkeypatch):
    monkeypatch.setattr("spf.backbones.checkpoints.load_backbone", lambda *args: pytest.fail("loaded"))
    settings = config.train_config("tiny", {"data": str(picture_folder), "name": "hat", "stage2.use_8bit_adam": True})
    run = Run(settings, RunFolder.create(spf_home / "runs", settings), torch.device("cpu"))
    with pytest.raises(InvalidInput, match="bitsandbytes"):
        run.execute()
    assert run.folder.status().state == "failed"


def test_a_plain_count_of_steps_survives_a_checkpoint(tmp_path):
    def made():
        torch.manual_seed(0)
        network = nn.Linear(3, 2)
        return network, CountingAdamW(network.parameters(), lr=0.1), Learner(dict(network.named_parameters()))

    (straight, optimizer, learner), (resumed, other, others) = made(), made()
    stepped(straight, optimizer)
    position = Position(stage="stage1", stage_step=1, step=1, global_batch=2, identity={})
    saved = checkpoint.load(checkpoint.save(tmp_path, position, straight.state_dict(), optimizer, learner, 2))
    stepped(straight, optimizer)
    saved.restore_weights(resumed)
    saved.restore_optimizer(other, others.parameters)
    stepped(resumed, other)
    assert torch.equal(straight.weight, resumed.weight)


def test_moments_of_another_kind_are_another_run(tiny, picture_folder, monkeypatch):
    plain, small = (config.train_config("tiny", {"data": str(picture_folder), "name": "hat", "stage1.use_8bit_adam": value})
                    for value in (False, True))
    found = [identity.identity(settings, tiny, [], 1) for settings in (plain, small)]
    assert "stage1.use_8bit_adam" not in found[0] and found[1]["stage1.use_8bit_adam"] is True
