"""A run that goes on ends with the same bits as one that was never stopped; and one that must not go on is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from spf import config, library
from spf.backbones import checkpoints
from spf.backbones.trainables import Learner
from spf.data.records import read_folder
from spf.errors import InvalidInput, Paused, ResumeRefused, TrainingError
from spf.pocket.dataset import render_folder
from spf.training import checkpoint, identity, loop, preview
from spf.training import run as run_module
from spf.training.run import Run, resumable
from spf.training.run_folder import RunFolder

CPU = torch.device("cpu")
TIMED = ("seconds_per_step", "memory_gb")


class Killed(BaseException):
    """The process is gone: nothing catches it but the test."""


@pytest.fixture
def make_run(tiny, picture_folder, spf_home, monkeypatch, tmp_path):
    """make_run(key=value): a run of 3 + 3 steps with a checkpoint every 2, from its beginning."""
    monkeypatch.setattr(library, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(preview, "PREVIEW_STEPS", 1)

    def make(**overrides) -> Run:
        values = {"data": str(picture_folder), "name": "hat", "checkpoint_every": 2, "stage1.max_train_steps": 3,
                  "stage2.max_train_steps": 3, "caption_dropout": 0.3, "stage2.lr_warmup_steps": 4} | {
                      name.replace("__", "."): value for name, value in overrides.items()}
        settings = config.train_config("tiny", values)
        return Run(settings, RunFolder.create(spf_home / "runs", settings), CPU)

    return make


@pytest.fixture
def finished(monkeypatch):
    """finished(run): the tensors that it ends with, as they are before they are rounded for the customization."""
    saved, save = [], checkpoints.save_customization
    monkeypatch.setattr(checkpoints, "save_customization", lambda card, tensors: (
        saved.append({name: value.clone() for name, value in tensors.items()}), save(card, tensors))[1])

    def finish(run: Run) -> dict[str, torch.Tensor]:
        run.execute()
        return saved[-1]

    return finish


_STRAIGHT: dict = {}  # runs that were never stopped, by what they were asked for: always the same


@pytest.fixture
def straight(make_run, finished):
    """straight(key=value): tensors and lines of metrics of the run that nobody stopped."""
    def run(**overrides) -> tuple[dict[str, torch.Tensor], list[dict]]:
        key = tuple(overrides.items())
        if key not in _STRAIGHT:
            made = make_run(**overrides)
            _STRAIGHT[key] = finished(made), lines(made.folder)
        return _STRAIGHT[key]

    return run


def killed_at(run: Run, step: int) -> RunFolder:
    """Execute until `step` steps are done, then drop everything that is only in memory."""
    class Doomed(RunFolder):
        def write_status(self, status):
            super().write_status(status)
            if status.step == step and status.state == "running" and status.stage:
                raise Killed

    run.folder = Doomed(run.folder.path)
    with pytest.raises(Killed):
        run.execute()
    return RunFolder(run.folder.path)


def lines(folder: RunFolder) -> list[dict]:
    return [{name: value for name, value in line.items() if name not in TIMED} for line in folder.metrics()]


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("step, begins", [(1, None), (3, 2), (5, 3), (6, 5)])
def test_straight_equals_killed_and_resumed_bit_for_bit(make_run, straight, finished, step, begins):
    """Killed before the first checkpoint, in stage 1, in stage 2 (from the end of stage 1), and before the end."""
    expected, expected_lines = straight()
    folder = killed_at(make_run(), step)
    found = checkpoint.newest(folder.path)
    assert (found and found.position.step) == begins
    torch.manual_seed(99)
    assert same(finished(Run(folder.config(), folder, CPU)), expected)
    assert lines(folder) == expected_lines
    assert folder.status().state == "completed" and folder.status().step == 6
    assert checkpoint.steps(folder.path) == [], "what they were for is done"


@pytest.mark.parametrize("seed, precision", [(1, "no"), (2, "bf16")])
def test_other_seeds_and_precisions_resume_exactly(make_run, finished, any_precision, seed, precision):
    options = {"seed": seed, "mixed_precision": precision, "stage2.max_train_steps": 2}
    expected = finished(make_run(**options))
    folder = killed_at(make_run(**options), 4)
    assert same(finished(Run(folder.config(), folder, CPU)), expected)


def test_killed_twice(make_run, straight, finished):
    expected, _ = straight()
    folder = killed_at(make_run(), 3)
    killed_at(Run(folder.config(), folder, CPU), 5)
    assert same(finished(Run(folder.config(), folder, CPU)), expected)


def test_a_reporter_hears_from_which_step_a_run_goes_on(make_run, monkeypatch):
    begun = []
    monkeypatch.setattr(run_module, "reporter", lambda kind, folder, first: begun.append(first) or (lambda line: None))
    folder = killed_at(make_run(), 3)  # its newest checkpoint is of step 2
    Run(folder.config(), folder, CPU).execute()
    assert begun == [0, 2, 3], "stage 1 twice, then stage 2"


@pytest.mark.parametrize("trainable", ["lora", "adalora", "adapter"])
def test_additions_to_the_layers_resume_exactly(make_run, finished, trainable):
    options = {"stage1.trainable": trainable, "stage": "1"}
    expected = finished(make_run(**options))
    folder = killed_at(make_run(**options), 3)
    assert same(finished(Run(folder.config(), folder, CPU)), expected)


def test_pausing_saves_and_resuming_goes_on(make_run, straight, finished):
    expected, _ = straight()
    run = make_run(checkpoint_every=0)
    run.folder.request("pause")
    with pytest.raises(Paused):
        run.execute()
    assert run.folder.status().state == "paused" and checkpoint.steps(run.folder.path) == [0]
    run.folder.clear_requests()
    assert same(finished(Run(run.config, run.folder, CPU)), expected)


PRESERVATION = {1: 5.0, 2: 3.0, 3: 4.0, 4: 3.5, 5: 6.0}  # by steps of stage 2: the second is the best


@pytest.fixture
def falling(monkeypatch, tmp_path):
    """Settings of a run whose stage 2 preserves worse from its third step on."""
    def validate(training):
        if training.stage.name == "stage1":
            return {}
        training._compare(PRESERVATION[training.done])
        return {"validation_preservation": PRESERVATION[training.done]}

    monkeypatch.setattr(loop._Training, "_validate", validate)
    return {"data": str(render_folder("turban", 8, tmp_path / "turbans", size=64)), "validate_every": 1,
            "stage2.max_train_steps": 9, "checkpoint_every": 100}


def test_an_early_stop_writes_the_best_weights(make_run, finished, falling):
    expected = finished(make_run(**falling | {"stage2.max_train_steps": 2}))
    last = finished(make_run(**falling | {"stage2.max_train_steps": 5}))
    run = make_run(early_stop_patience=3, **falling)
    assert same(finished(run), expected) and not same(expected, last)
    summary = checkpoints.customizations()["hat"].card.summary
    assert (summary["stage1_steps"], summary["stage2_steps"], summary["stage2_kept_step"]) == (3, 5, 2)
    assert [line["step"] for line in run.folder.metrics()] == list(range(8))


def test_the_best_weights_outlive_the_process(make_run, finished, falling):
    """Killed three steps after the best; what is resumed has them only in its checkpoint."""
    expected = finished(make_run(**falling | {"stage2.max_train_steps": 2}))
    folder = killed_at(make_run(early_stop_patience=3, **falling | {"checkpoint_every": 2, "checkpoints_kept": 1}), 8)
    assert checkpoint.steps(folder.path) == [5, 7]
    assert checkpoint.newest(folder.path).position.best == checkpoint.Best(step=5, preservation=3.0)
    assert same(finished(Run(folder.config(), folder, CPU)), expected)


def test_an_early_stop_needs_pictures_to_judge_by(make_run):
    run = make_run(early_stop_patience=3)
    with pytest.raises(InvalidInput, match="early_stop_patience: needs pictures to validate on, and of 4"):
        run.execute()


def test_saving_and_sampling_when_asked(make_run, monkeypatch):
    run = make_run(checkpoint_every=0, stage="1", sample_every=100)
    run.folder.request("save")
    run.folder.request("sample")
    kept = []
    monkeypatch.setattr(run_module.checkpoint, "remove_all", lambda folder: kept.extend(checkpoint.steps(folder)))
    run.execute()
    assert kept == [0] and [sample["step"] for sample in run.folder.samples()] == [0, 3]
    assert run.folder.requests() == ()


@pytest.fixture
def stopped(make_run, picture_folder, tmp_path) -> RunFolder:
    """A run with a checkpoint, on pictures that may be changed. Its tensors are none of the model: nobody gets to see them."""
    shutil.copytree(picture_folder, tmp_path / "mine")
    run, network = make_run(data=str(tmp_path / "mine")), nn.Linear(1, 1)
    settings, records = run.config, read_folder(tmp_path / "mine")
    position = checkpoint.Position(
        stage="stage1", stage_step=2, step=2, global_batch=2,
        identity=identity.identity(settings, config.model_preset("tiny"), records, 1))
    checkpoint.save(run.folder.path, position, network.state_dict(), torch.optim.AdamW(network.parameters()),
                    Learner({}), 1)
    return run.folder


def changed(folder: RunFolder, values: dict) -> config.TrainConfig:
    return config.parse(config.TrainConfig, config.with_overrides(folder.config().model_dump(mode="json"), values))


def caption(folder):
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    rows[0]["base_text"] += ", smiling"
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("change, named", [
    ({"method.lambda_text": 0.9}, "method.lambda_text was 0.2, now it is 0.9"),
    ({"method.use_sfcm": False}, "method.use_sfcm was True, now it is False"),
    ({"mixed_precision": "bf16"}, "mixed_precision was no, now it is bf16"),
    ({"stage1.trainable": "cross"}, "stage1.trainable was full, now it is cross"),
    ({"stage2.train_batch_size": 4}, "stage2.global_batch was 2, now it is 4"),
    ({"seed": 7}, "seed was 0, now it is 7"),
    (caption, "data_sha256 was"),
])
def test_what_changed_is_named_before_anything_is_loaded(stopped, monkeypatch, tmp_path, change, named):
    monkeypatch.setattr(checkpoints, "load_backbone", lambda *args: pytest.fail("loaded"))
    settings = stopped.config()
    if callable(change):
        change(tmp_path / "mine")
    else:
        settings = changed(stopped, change)
    with pytest.raises(ResumeRefused, match=named):
        Run(settings, stopped, CPU).execute()
    assert checkpoint.steps(stopped.path) == [2], "and nothing is lost"


def test_another_model_is_refused(stopped, monkeypatch):
    monkeypatch.setattr(checkpoints, "load_backbone", lambda *args: pytest.fail("loaded"))
    monkeypatch.setattr(checkpoints, "denoiser_hash", lambda preset: "f" * 64)
    with pytest.raises(ResumeRefused, match="model_sha256 was .* now it is ffff"):
        Run(stopped.config(), stopped, CPU).execute()


def test_another_picture_of_the_same_name_is_other_data(picture_folder, tmp_path):
    shutil.copytree(picture_folder, tmp_path / "mine")
    before = identity.data_sha256(read_folder(tmp_path / "mine"))
    assert before == identity.data_sha256(read_folder(picture_folder)), "where it lies is all the same"
    path = next((tmp_path / "mine").glob("*.png"))
    path.write_bytes(path.read_bytes() + b"\0")
    assert identity.data_sha256(read_folder(tmp_path / "mine")) != before


def test_what_may_change_on_the_way(stopped):
    settings = changed(stopped, {"stage2.learning_rate": 1e-5, "stage2.max_train_steps": 9, "checkpoints_kept": 1, "name": "cap"})
    assert resumable(settings, stopped, read_folder(Path(settings.data)))[1].position.step == 2


def test_a_broken_loss_keeps_the_last_good_checkpoint(make_run, monkeypatch):
    folder = killed_at(make_run(), 3)
    forward = run_module.DualPathStage.training_forward

    def broken(self, batch, generator):
        losses, report = forward(self, batch, generator)
        return losses | {"text": losses["text"] * float("nan")}, report

    monkeypatch.setattr(run_module.DualPathStage, "training_forward", broken)
    with pytest.raises(TrainingError, match="stage2, step 3: .*text_loss"):
        Run(folder.config(), folder, CPU).execute()
    assert folder.status().state == "failed" and checkpoint.newest(folder.path).position.step == 3
    assert len(folder.metrics()) == 3


@pytest.mark.parametrize("before, after, batch", [(1, 2, 1), (2, 1, 4), (2, 4, 1)])
def test_another_number_of_processes_keeps_the_global_batch(make_run, before, after, batch):
    settings = make_run().config  # 2 samples per device
    position = checkpoint.Position(stage="stage1", stage_step=1, step=1, global_batch=2 * before, processes=before, identity={})
    fitted = identity.on_these_devices(settings, position, after)
    assert fitted.stage1.train_batch_size == fitted.stage2.train_batch_size == batch
    with pytest.raises(ResumeRefused, match="3 processes cannot share evenly"):
        identity.on_these_devices(settings, position, 3)
