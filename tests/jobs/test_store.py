"""Runs as detached processes. The child here is a stub that keeps the contract: it reads and writes its run folder."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from spf import config
from spf.errors import DataError, ModelNotFound, TrainingError
from spf.jobs import store
from spf.training.run_folder import RunStatus

# What `python -m spf train --run FOLDER` does, without a model: run until cancelled.
STUB = """
import json, os, sys, time
folder = sys.argv[-1]
print("the child says hello", sys.argv[1:], flush=True)
path = os.path.join(folder, "status.json")
while (status := json.load(open(path)))["pid"] != os.getpid():
    time.sleep(0.02)  # until the parent has written whose run it is now
status |= {"state": "running", "step": 3, "total_steps": 9, "message": os.environ["SPF_HOME"]}
def write():
    json.dump(status, open(path + ".new", "w")); os.replace(path + ".new", path)
write()
while not os.path.exists(os.path.join(folder, "cancel")):
    time.sleep(0.02)
status["state"] = "cancelled"
write()
"""


@pytest.fixture
def settings(tiny, picture_folder) -> config.TrainConfig:
    return config.train_config("tiny", {"data": str(picture_folder), "name": "hat"})


@pytest.fixture
def children(monkeypatch):
    """The stub in place of `python -m spf`; every child is ended with the test. Holds (command, options) of each start."""
    started, processes, launch = [], [], subprocess.Popen

    def stub(command, **options):
        started.append((command, options))
        processes.append(launch([sys.executable, "-S", "-c", STUB, *command[-2:]], **options))
        return processes[-1]

    monkeypatch.setattr(store.subprocess, "Popen", stub)
    yield started
    for process in processes:
        process.kill()
        process.wait()


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def running(settings):
    folder = store.start(settings)
    until(lambda: store.status(folder).state == "running")
    return folder


def test_a_run_is_a_detached_process_of_its_own_session(settings, children, spf_home):
    folder = running(settings)
    command, options = children[0]
    assert command == [sys.executable, "-m", "spf", "train", "--run", str(folder.path)]
    assert options["cwd"] == config.REPOSITORY and options["stdin"] == subprocess.DEVNULL
    status = store.status(folder)
    assert status.pid != os.getpid() and os.getsid(status.pid) == status.pid != os.getsid(0)
    assert status.message == str(spf_home.resolve()), "the child keeps its state where we look for it"
    until(lambda: "the child says hello" in folder.log_tail())
    assert folder.config() == settings and store.active().id == folder.id and [run.id for run in store.runs()] == [folder.id]


def test_a_second_start_is_refused_and_names_the_holder(settings, children):
    folder = running(settings)
    for start in (store.start, store.prepare):
        with pytest.raises(TrainingError, match=f"{folder.id}, step 3 of 9.*cancel"):
            start(settings)
    assert len(children) == 1 and len(store.runs()) == 1


def test_cancelling_ends_it_and_frees_the_device(settings, children):
    folder = running(settings)
    assert store.cancel(folder.id).id == folder.id
    until(lambda: store.status(folder).state == "cancelled")
    assert store.active() is None
    second = running(settings)
    assert store.active().id == second.id != folder.id


def test_a_process_that_was_killed_is_interrupted(settings, children):
    folder = running(settings)
    psutil.Process(store.status(folder).pid).kill()
    until(lambda: store.status(folder).state == "interrupted")
    assert "log" in folder.status().message and folder.status().eta is None
    assert store.active() is None


def test_a_later_process_with_the_same_number_is_not_mistaken_for_the_run(settings):
    folder = store.prepare(settings)
    mine = RunStatus.of_this_process("running")
    folder.write_status(mine)
    assert store.status(folder).state == "running"
    folder.write_status(mine.model_copy(update={"pid_created": mine.pid_created - 3600}))
    assert store.status(folder).state == "interrupted"


def test_a_number_that_no_process_has_is_interrupted(settings):
    folder = store.prepare(settings)
    free = next(pid for pid in range(4_000_000, 4_100_000) if not psutil.pid_exists(pid))
    folder.write_status(RunStatus(state="running", pid=free, pid_created=time.time()))
    assert store.status(folder).state == "interrupted" == folder.status().state


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled", "interrupted"])
def test_a_final_state_stays(settings, state):
    folder = store.prepare(settings)
    folder.write_status(RunStatus(state=state, message="as it was"))
    assert store.status(folder).state == state and folder.status().message == "as it was" and store.active() is None


def test_a_run_that_is_being_prepared_holds_the_device(settings):
    """On the command line the heavy imports come between preparing a run and its first step; a page may look meanwhile."""
    folder = store.prepare(settings)
    assert store.status(folder).state == "queued" and store.active().id == folder.id
    with pytest.raises(TrainingError, match=folder.id):
        store.prepare(settings)


def test_two_starts_at_one_moment_do_not_both_run(settings, monkeypatch):
    create = store.RunFolder.create

    def crowded(root, config):
        create(root, config)  # somebody else's, between the look and this
        return create(root, config)

    monkeypatch.setattr(store.RunFolder, "create", staticmethod(crowded))
    with pytest.raises(TrainingError, match="already under way"):
        store.prepare(settings)
    assert len(store.runs()) == 1 and len(list(store.runs_root().iterdir())) == 1


def test_a_process_that_cannot_be_started_does_not_hold_the_device(settings, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(store.subprocess, "Popen", refuse)
    with pytest.raises(TrainingError, match="Cannot allocate memory"):
        store.start(settings)
    assert store.active() is None and [store.status(run).state for run in store.runs()] == ["failed"]


@pytest.mark.parametrize("overrides, error, words", [
    ({"data": "/nowhere/pictures"}, DataError, "/nowhere/pictures"), ({"model": "sdxl"}, ModelNotFound, "sdxl")])
def test_what_cannot_work_is_refused_before_anything_is_written(settings, children, spf_home, overrides, error, words):
    with pytest.raises(error, match=words):
        store.start(settings.model_copy(update=overrides))
    assert not children and not spf_home.exists()


def test_an_empty_folder_is_refused_before_anything_is_written(settings, spf_home, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        store.prepare(settings.model_copy(update={"data": str(tmp_path / "empty")}))
    assert not spf_home.exists()


def test_a_model_without_files_is_refused_before_anything_is_written(settings, spf_home, tiny, tmp_path):
    path = config.CONFIGS / "models" / "tiny.yaml"
    path.write_text(path.read_text().replace(tiny.pretrained_model_name_or_path + "\n", str(tmp_path / "gone") + "\n"))
    with pytest.raises(ModelNotFound, match="gone"):
        store.prepare(settings)
    assert not spf_home.exists()


def test_a_damaged_run_hides_only_itself(settings):
    good = store.prepare(settings)
    good.write_status(RunStatus(state="completed"))
    bad = store.prepare(settings)
    (bad.path / "status.json").write_text("{")
    assert [run.id for run in store.runs()] == [good.id] and store.active() is None


def test_runs_are_listed_newest_first_and_found_by_name():
    ids = []
    for stamp in ("20260101-000000-a", "20260201-000000-a", "20250101-000000-z"):
        folder = store.runs_root() / stamp
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps({"state": "completed"}))
        ids.append(folder.name)
    assert [run.id for run in store.runs()] == [ids[1], ids[0], ids[2]]
    assert store.run(ids[2]).path == store.runs_root() / ids[2]
    for unknown in ("gone", "../../etc", ""):
        with pytest.raises(TrainingError, match="does not exist"):
            store.run(unknown)


def test_looking_creates_nothing(spf_home):
    assert store.runs() == [] and store.active() is None and not spf_home.exists()
