"""Checkpoints as files: whole or not there, checked byte by byte, and never at the cost of the one before."""

import json
import shutil

import pytest
import torch
from torch import nn

from spf.backbones.trainables import Learner
from spf.errors import CheckpointError, DiskFull, TrainingError
from spf.training import checkpoint
from spf.training.checkpoint import Best, Position


class Setting:
    """A network of two tensors, a few steps on its way."""

    def __init__(self):
        torch.manual_seed(0)
        self.network = nn.Linear(3, 2)
        self.learner = Learner(dict(self.network.named_parameters()))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.1, fused=True)

    def step(self):
        self.network(torch.ones(1, 3)).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, run, step: int, keep: int = 2, best: int | None = None):
        position = Position(stage="stage1", stage_step=step, step=step, global_batch=2, identity={"model": "tiny"},
                            best=best and Best(step=best, preservation=0.5))
        return checkpoint.save(run, position, self.network.state_dict(), self.optimizer, self.learner, keep)


@pytest.fixture
def setting() -> Setting:
    made = Setting()
    made.step()
    return made


def names(run) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def test_what_was_saved_comes_back_exactly(setting, tmp_path):
    setting.save(tmp_path, 5)
    random = torch.rand(3)
    expected = {name: value.clone() for name, value in setting.network.state_dict().items()}
    setting.step()
    after = {name: value.clone() for name, value in setting.network.state_dict().items()}

    found, fresh = checkpoint.load(tmp_path / "checkpoint-5"), Setting()
    assert (found.position.step, found.position.identity) == (5, {"model": "tiny"})
    torch.rand(7)
    found.restore_weights(fresh.network)
    found.restore_optimizer(fresh.optimizer, fresh.learner.parameters)
    found.restore_random()
    assert torch.equal(torch.rand(3), random)
    assert all(torch.equal(fresh.network.state_dict()[name], expected[name]) for name in expected)
    fresh.step()  # needs the moments and their step counts
    assert all(torch.equal(fresh.network.state_dict()[name], after[name]) for name in after)


def test_the_newest_few_are_kept(setting, tmp_path):
    for step in (5, 10, 100, 20):
        setting.save(tmp_path, step, keep=2)
    assert checkpoint.steps(tmp_path) == [20, 100] and checkpoint.newest(tmp_path).position.step == 100
    assert names(tmp_path) == ["checkpoint-100", "checkpoint-20"]


def test_the_best_one_stays_as_long_as_one_that_is_kept_calls_it_so(setting, tmp_path):
    setting.save(tmp_path, 5, keep=1, best=5)
    for step in (10, 15, 20):
        setting.save(tmp_path, step, keep=1, best=5)
        assert checkpoint.steps(tmp_path) == [5, step] and checkpoint.newest(tmp_path).position.best.step == 5
    setting.save(tmp_path, 25, keep=2, best=25)
    assert checkpoint.steps(tmp_path) == [5, 20, 25], "20 could still be resumed, and its best is 5"
    setting.save(tmp_path, 30, keep=2, best=25)
    assert checkpoint.steps(tmp_path) == [25, 30]


def test_a_best_one_that_is_lost_is_told_and_forgotten(setting, tmp_path):
    (setting.save(tmp_path, 5, best=5) / "weights.safetensors").write_bytes(b"damaged")
    setting.save(tmp_path, 10, best=5)
    heard = []
    assert checkpoint.newest(tmp_path, heard.append).position.best is None
    assert len(heard) == 1 and "checkpoint-5/weights.safetensors" in heard[0] and "step 5" in heard[0]


def test_a_step_that_comes_again_replaces_its_checkpoint(setting, tmp_path):
    setting.save(tmp_path, 5)
    before = checkpoint.load(tmp_path / "checkpoint-5").position
    (tmp_path / "checkpoint-5" / "weights.safetensors").write_bytes(b"damaged")
    setting.save(tmp_path, 5)
    assert checkpoint.load(tmp_path / "checkpoint-5").position == before and names(tmp_path) == ["checkpoint-5"]


@pytest.mark.parametrize("file", ["manifest.json", "weights.safetensors", "optimizer.safetensors", "learner.safetensors",
                                  "random.safetensors"])
@pytest.mark.parametrize("harm", ["gone", "empty", "short", "one bit"])
def test_a_damaged_checkpoint_is_named_and_passed_over(setting, tmp_path, file, harm):
    setting.save(tmp_path, 5)
    path = setting.save(tmp_path, 10) / file
    content = path.read_bytes()
    spoiled = {"empty": b"", "short": content[:-1], "one bit": bytes([content[0] ^ 1]) + content[1:]}
    path.unlink() if harm == "gone" else path.write_bytes(spoiled[harm])
    with pytest.raises(CheckpointError, match=f"checkpoint-10/{file} is missing or damaged"):
        checkpoint.load(tmp_path / "checkpoint-10")
    heard = []
    assert checkpoint.newest(tmp_path, heard.append).position.step == 5 and len(heard) == 1


def test_no_checkpoint_is_no_error(tmp_path):
    (tmp_path / ".checkpoint-5.partial").mkdir()
    (tmp_path / "checkpoint-five").mkdir()
    assert checkpoint.newest(tmp_path) is None and checkpoint.steps(tmp_path) == []


def test_leftovers_of_a_killed_process_go_away(setting, tmp_path):
    (tmp_path / ".checkpoint-3.partial").mkdir()
    setting.save(tmp_path, 5)
    assert names(tmp_path) == ["checkpoint-5"]
    checkpoint.remove_all(tmp_path)
    assert names(tmp_path) == []


def test_too_little_space_is_seen_before_anything_is_written(setting, tmp_path, monkeypatch):
    setting.save(tmp_path, 5)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
    monkeypatch.setattr(checkpoint, "save_file", lambda *args: pytest.fail("written"))
    with pytest.raises(DiskFull, match=f"{tmp_path} needs .* free some space.*resume {tmp_path.name}"):
        setting.save(tmp_path, 10)
    assert names(tmp_path) == ["checkpoint-5"]


class Disk:
    """The functions that write, of which the `fatal`-th call finds the disk full."""

    def __init__(self, fatal: int):
        self.fatal, self.calls = fatal, 0

    def guard(self, function):
        def guarded(*args, **kwargs):
            self.calls += 1
            if self.calls == self.fatal:
                raise OSError(28, "No space left on device")
            return function(*args, **kwargs)

        return guarded

    def install(self, monkeypatch):
        for name in ("save_file", "sync", "replace_folder"):
            monkeypatch.setattr(checkpoint, name, self.guard(getattr(checkpoint, name)))
        monkeypatch.setattr(checkpoint.Path, "write_text", self.guard(checkpoint.Path.write_text))


def test_a_disk_that_fills_up_at_any_write_leaves_what_was_there(setting, tmp_path, monkeypatch):
    setting.save(tmp_path, 5)
    with monkeypatch.context() as patch:
        (counting := Disk(fatal=0)).install(patch)
        setting.save(tmp_path, 10)
    assert counting.calls >= 12
    shutil.rmtree(tmp_path / "checkpoint-10")
    for fatal in range(1, counting.calls):  # the last write of all comes after the checkpoint is in its place
        with monkeypatch.context() as patch, pytest.raises(DiskFull, match="is full; free some space"):
            Disk(fatal).install(patch)
            setting.save(tmp_path, 10)
        assert names(tmp_path) == ["checkpoint-5"] and checkpoint.newest(tmp_path).position.step == 5
    setting.save(tmp_path, 10)
    assert checkpoint.newest(tmp_path).position.step == 10


def test_another_failure_to_write_is_told_as_what_it_is(setting, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "sync", lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(CheckpointError, match="Input/output error"):
        setting.save(tmp_path, 5)
    assert names(tmp_path) == []


def test_weights_that_are_no_numbers_are_not_saved(setting, tmp_path):
    setting.save(tmp_path, 5)
    with torch.no_grad():
        setting.network.bias[1] = float("inf")
    with pytest.raises(TrainingError, match="'bias' holds values that are not numbers"):
        setting.save(tmp_path, 10)
    assert names(tmp_path) == ["checkpoint-5"]


def test_a_checkpoint_of_other_parameters_is_refused(setting, tmp_path):
    setting.save(tmp_path, 5)
    found, other = checkpoint.load(tmp_path / "checkpoint-5"), nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="'weight' .* does not fit"):
        found.restore_weights(other)
    optimizer = torch.optim.AdamW(other.parameters())
    with pytest.raises(CheckpointError, match="other parameters"):
        found.restore_optimizer(optimizer, {"weight": other.weight})


def test_nothing_is_a_pickle(setting, tmp_path):
    folder = setting.save(tmp_path, 5)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {path.name for path in folder.iterdir()} - {"manifest.json"}
