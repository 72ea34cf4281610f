"""A run on disk, read while it is written and after its writer died."""

import json

import numpy as np
import pytest
from PIL import Image

from spf import config
from spf.errors import InvalidInput, TrainingError
from spf.training.run_folder import RunFolder, RunStatus


@pytest.fixture
def settings(tiny) -> config.TrainConfig:
    return config.train_config("tiny", {"data": "pictures", "name": "hat", "seed": 2**63 - 1, "stage1.learning_rate": 1e-7})


@pytest.fixture
def folder(settings, tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs", settings)


def test_a_new_run_is_queued_under_a_name_of_its_own(settings, tmp_path):
    folders = [RunFolder.create(tmp_path / "runs", settings) for _ in range(3)]
    assert len({folder.id for folder in folders}) == 3 and all("hat" in folder.id for folder in folders)
    assert folders[0].status().state == "queued" and folders[0].samples() == [] and folders[0].metrics() == []
    assert folders[0].log_tail() == ""


def test_the_settings_come_back_exactly(folder, settings):
    assert folder.config() == settings


@pytest.mark.parametrize("content", [None, "", "{", "model: tiny", "a: 1"])
def test_damaged_settings_are_named(folder, content):
    path = folder.path / "config.yaml"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InvalidInput):
        folder.config()


def test_a_status_is_replaced_whole(folder):
    before = folder.status()
    folder.write_status(before.model_copy(update={"state": "running", "step": 5, "eta": 1.5}))
    now = folder.status()
    assert (now.state, now.step, now.eta, now.started) == ("running", 5, 1.5, before.started)
    assert now.updated >= before.updated
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.yaml", "samples", "status.json"]


@pytest.mark.parametrize("content", ["", '{"state": "run', "[]", '{"state": "flying"}', '{"state": "running", "new": 1}'])
def test_a_damaged_status_is_an_error_with_a_remedy(folder, content):
    (folder.path / "status.json").write_text(content)
    with pytest.raises(TrainingError, match="status.json is missing or damaged; delete"):
        folder.status()


def test_half_written_lines_of_metrics_are_left_out(folder):
    for step in range(2):
        folder.log({"step": step, "loss": 0.5})
    with open(folder.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    assert [line["step"] for line in folder.metrics()] == [0, 1]
    folder.log({"step": 3, "loss": 0.5})  # another process goes on behind the line that broke off
    folder.log({"step": 4, "loss": 0.5})
    with open(folder.path / "metrics.jsonl", "a") as file:
        file.write("\n[1]\nnull\n")
    assert [line["step"] for line in folder.metrics()] == [0, 1, 4]


def test_metrics_hold_numbers_only(folder):
    with pytest.raises(ValueError):
        folder.log({"loss": float("nan")})
    assert folder.metrics() == []


def test_samples_are_listed_when_all_three_pictures_are_there(folder):
    original, customized = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for step in (50, 7):
        folder.save_sample(step, original, customized, np.linspace(0, 1, 16).reshape(4, 4))
    (folder.path / "samples" / "step_000060_original.png").write_bytes(b"half")
    (folder.path / "samples" / "step_000060_sfcm.partial").write_bytes(b"half")
    found = folder.samples()
    assert [sample["step"] for sample in found] == [7, 50]
    assert Image.open(found[0]["original"]).getpixel((0, 0)) == (255, 0, 0)
    assert Image.open(found[0]["customized"]).getpixel((0, 0)) == (0, 0, 255)
    sfcm = np.asarray(Image.open(found[0]["sfcm"]))
    assert sfcm.shape == (8, 8) and sfcm[0, 0] == 0 and sfcm[-1, -1] == 255


def test_the_end_of_the_log_is_readable_whatever_was_printed(folder):
    (folder.path / "log.txt").write_bytes(b"\n".join(b"line %d \xff" % i for i in range(100)))
    tail = folder.log_tail(3).splitlines()
    assert [line[:7] for line in tail] == ["line 97", "line 98", "line 99"]


def test_a_request_to_cancel_is_seen(folder):
    assert not folder.cancel_requested()
    folder.request_cancel()
    folder.request_cancel()
    assert folder.cancel_requested()


def test_a_status_of_this_process_names_it(folder):
    status = RunStatus.of_this_process("running")
    assert json.loads(status.model_dump_json())["pid"] == folder.status().pid
    assert status.pid_created == folder.status().pid_created
