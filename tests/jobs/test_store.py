"""Runs as jobs: started once, watched from anywhere, and never left in a state that is not true."""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from stand_in import stand_in_workers, state, until

from spf import config
from spf.errors import DataError, InvalidInput, ModelNotFound, ResumeRefused, TrainingError
from spf.jobs import queue, store
from spf.jobs.queue import Holder
from spf.training import process as training_process
from spf.training.run_folder import RunStatus
from tests.processes import SERVER, process


def named(settings, name: str):
    return settings.model_copy(update={"name": name})


def running(settings):
    folder = store.start(settings)
    until(lambda: state(folder) == "running")
    return folder


def test_a_run_is_looked_after_by_a_detached_process(settings, workers, spf_home):
    folder = running(settings)
    command, options = workers[0]
    assert command == [sys.executable, "-m", "spf", "work", str(folder.path)]
    assert options["cwd"] == config.REPOSITORY and options["stdin"] == subprocess.DEVNULL
    job, status = queue.job(folder.id), store.status(folder)
    assert job.state == "running" and job.worker.pid == workers.processes[0].pid != status.pid != os.getpid()
    assert os.getsid(status.pid) == os.getsid(job.worker.pid) == job.worker.pid != os.getsid(0)
    until(lambda: "the trainer says hello" in folder.log_tail())
    assert folder.config() == settings and store.active().id == folder.id and [run.id for run in store.runs()] == [folder.id]


def test_the_queue_takes_its_turn_when_the_device_is_free(settings, workers):
    first = running(settings)
    second, third = store.start(named(settings, "cap")), store.start(named(settings, "turban"))
    time.sleep(1.5)
    assert [state(run) for run in (first, second, third)] == ["running", "queued", "queued"] and store.active().id == first.id
    assert len(workers.processes) == 3 and queue.holding() == first.id
    store.cancel(first.id)
    until(lambda: state(second) == "running")
    assert state(first) == "cancelled" and state(third) == "queued" and queue.holding() == second.id
    store.cancel(third.id)  # while it waits
    until(lambda: not queue.job(third.id).active)
    assert state(third) == "cancelled"
    assert queue.job(third.id).message == "Cancelled before it began." and state(second) == "running"


def test_a_hundred_double_starts_give_one_job(settings, workers):
    def start(_):
        try:
            return store.start(settings).id
        except TrainingError as error:
            assert "already under way" in str(error)
            return None

    with ThreadPoolExecutor(8) as pool:
        started = [run_id for run_id in pool.map(start, range(100)) if run_id]
    assert len(started) == 1 == len(queue.jobs()) == len(workers)
    assert [run.id for run in store.runs()] == started and len(list(store.runs_root().iterdir())) == 1


def test_the_database_itself_refuses_a_second_active_job(spf_home):
    me = Holder.this_process()
    queue.add("first", "hat", me)
    with pytest.raises(TrainingError, match=r"'hat' is already under way \(first\)"):
        queue.add("second", "hat", me)
    queue.finish("first", "cancelled", "", 1, "")
    queue.add("second", "hat", me)
    with pytest.raises(TrainingError, match="second"):
        queue.requeue("first", me)


def test_the_command_line_is_refused_while_the_device_is_taken(settings, workers):
    folder = running(settings)
    with pytest.raises(TrainingError, match=f"{folder.id}, step 3 of 9.*cancel"):
        store.prepare(named(settings, "cap"))
    assert len(store.runs()) == 1 == len(queue.jobs())


def test_cancelling_ends_it_within_two_seconds_and_frees_the_device(settings, workers):
    folder = running(settings)
    began = time.monotonic()
    assert store.cancel(folder.id).id == folder.id
    until(lambda: state(folder) == "cancelled")
    assert time.monotonic() - began < 2 + 3, "two seconds, and what a busy machine adds"
    until(lambda: queue.job(folder.id).state == "cancelled" and queue.holding() is None)
    assert "the trainer says hello" in queue.job(folder.id).log_tail


def test_a_trainer_that_does_not_listen_is_ended_by_its_worker(settings, workers):
    workers.behaviour = "deaf"
    folder = running(settings)
    trainer = psutil.Process(store.status(folder).pid)
    store.cancel(folder.id)
    until(lambda: state(folder) == "cancelled")
    assert not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("behaviour, expected, words, exit_code", [
    ("silent exit 0", "failed", "ended without a result", 0),
    ("exit 1", "failed", "status 1; see the log", 1),
    ("lies", "failed", "its customization is not there", 0),
    ("fails", "failed", "loss is not a finite number", 1),
    ("signal", "interrupted", "signal 9", -9)])
def test_every_end_is_told_as_what_it_is(settings, workers, behaviour, expected, words, exit_code):
    workers.behaviour = behaviour
    folder = store.start(settings)
    until(lambda: not queue.job(folder.id).active)
    job, status = queue.job(folder.id), store.status(folder)
    assert job.state == status.state == expected and words in status.message and job.message == status.message
    assert job.exit_code == exit_code and "the trainer says hello" in job.log_tail and status.eta is None
    assert queue.holding() is None


def test_the_training_goes_on_when_its_worker_is_killed(settings, workers):
    folder = running(settings)
    workers.processes[0].kill()
    workers.processes[0].wait()
    assert state(folder) == "running" and store.active().id == folder.id
    with pytest.raises(TrainingError, match="already under way"):
        store.start(settings)
    store.cancel(folder.id)
    until(lambda: state(folder) == "cancelled")
    until(lambda: not queue.job(folder.id).active)


def _serve(settings, first: bool, told):
    with stand_in_workers():
        try:
            told.send(("started", store.start(settings).id) if first else ("found", store.active().id))
            if not first:
                store.start(settings)
        except TrainingError as error:
            told.send(("refused", "already under way" in str(error)))
        time.sleep(60)


def test_a_server_killed_ten_times_leaves_one_run_that_the_next_server_finds(settings):
    """F7: the first server starts the run; each further one looks, wants to start the same, and is killed as well."""
    found, trainers = [], set()
    for number in range(10):
        hears, told = SERVER.Pipe(duplex=False)  # one for each: a queue stays locked when its writer is killed
        server = process(_serve, settings, number == 0, told, patches=[("spf.config", "CONFIGS", config.CONFIGS)])
        server.start()
        assert hears.poll(120)
        found.append(hears.recv())
        if number:
            assert hears.poll(120) and hears.recv() == ("refused", True)
        server.kill()
        server.join()
        (run,) = store.runs()
        until(lambda run=run: state(run) == "running")
        trainers.add(store.status(run).pid)
    assert found == [("started", run.id)] + [("found", run.id)] * 9 and len(trainers) == 1 == len(queue.jobs())
    store.cancel(run.id)
    until(lambda: not queue.job(run.id).active)
    assert queue.job(run.id).state == "cancelled" and queue.holding() is None


def test_worker_and_trainer_killed_is_interrupted_and_does_not_stand_in_the_way(settings, workers):
    folder = running(settings)
    trainer = psutil.Process(store.status(folder).pid)
    workers.processes[0].kill()
    workers.processes[0].wait()
    trainer.kill()
    until(lambda: state(folder) == "interrupted")
    assert "resume" in folder.status().message and folder.status().eta is None and queue.job(folder.id).state == "interrupted"
    assert state(running(settings)) == "running"


def test_pausing_and_resuming(settings, workers):
    folder = running(settings)
    store.ask(folder.id, "pause")
    until(lambda: state(folder) == "paused" and not queue.job(folder.id).active)
    assert store.active() is None
    assert store.resume(folder.id, {"stage2.learning_rate": 1e-5}).id == folder.id
    until(lambda: state(folder) == "running")
    assert folder.config().stage2.learning_rate == 1e-5 and len(store.runs()) == 1
    with pytest.raises(TrainingError, match="is running; only a run that ended early"):
        store.resume(folder.id)
    store.ask(folder.id, "save")
    with pytest.raises(InvalidInput, match="request: 'stop'"):
        store.ask(folder.id, "stop")


@pytest.mark.parametrize("again", [
    lambda settings, run: store.start(settings), lambda settings, run: store.prepare(named(settings, "cap")),
    lambda settings, run: store.resume(run.id)], ids=["the same", "another", "resumed"])
def test_whoever_saw_a_run_end_may_start_the_next_at_once(settings, workers, monkeypatch, again):
    """Its process has told that it is paused, but it and its worker are still there."""
    monkeypatch.setattr(store, "LEAVING", 60.0)
    workers.behaviour = "leaves late"
    folder = running(settings)
    store.ask(folder.id, "pause")
    until(lambda: state(folder) == "paused")
    assert queue.job(folder.id).active and queue.holding() == folder.id
    assert again(settings, folder).status().state in ("queued", "running")


def test_a_run_that_ends_and_never_leaves_is_not_waited_for_for_ever(settings, monkeypatch):
    monkeypatch.setattr(store, "LEAVING", 0.2)
    folder = store.prepare(settings)
    with subprocess.Popen(["sleep", "600"]) as attending:
        queue.attend(folder.id, Holder.of(attending.pid))
        folder.write_status(RunStatus.of_this_process("paused"))
        with pytest.raises(TrainingError, match="already under way"):
            store.start(settings)
        attending.kill()
    assert store.prepare(settings).id != folder.id


def test_a_run_that_cannot_go_on_is_refused_before_it_is_queued(settings, workers, monkeypatch):
    folder = running(settings)
    store.cancel(folder.id)
    until(lambda: state(folder) == "cancelled" and not queue.job(folder.id).active)

    def refuse(*_args):
        raise ResumeRefused("resume: data_sha256 was a, now it is b; restore what differs, or start a new run.")

    monkeypatch.setattr("spf.training.run.resumable", refuse)
    with pytest.raises(ResumeRefused):
        store.resume(folder.id)
    assert state(folder) == "cancelled" and len(workers) == 1
    with pytest.raises(TrainingError, match="cancelled; nothing is under way"):
        store.ask(folder.id, "sample")
    assert store.cancel(folder.id).id == folder.id, "what has ended may be cancelled again, to no effect"


def test_a_later_process_with_the_same_number_is_not_mistaken_for_the_run(settings):
    folder = store.prepare(settings)
    mine = RunStatus.of_this_process("running")
    folder.write_status(mine)
    assert state(folder) == "running"
    earlier = Holder(mine.pid, mine.pid_created - 3600)
    assert not earlier.is_alive()
    queue.attend(folder.id, earlier)
    folder.write_status(mine.model_copy(update={"pid_created": earlier.created}))
    assert state(folder) == "interrupted" and psutil.pid_exists(mine.pid), "and nobody was harmed"
    queue.add("next", "cap", Holder.this_process())
    assert queue.acquire("next", Holder.this_process())


def test_a_clock_that_is_set_makes_nobody_somebody_else(settings, monkeypatch):
    """A laptop that wakes up, or a server that finds the network's time: psutil's time of the boot moves with the clock."""
    folder = store.prepare(settings)
    folder.write_status(RunStatus.of_this_process("running"))
    boot, before = psutil.boot_time(), psutil.Process().create_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot + 3600)
    assert psutil.Process().create_time() == pytest.approx(before + 3600, abs=1)
    assert state(folder) == "running" and queue.holding() == folder.id
    with pytest.raises(TrainingError, match="already under way"):
        store.prepare(named(settings, "cap"))


def test_a_process_of_an_earlier_boot_is_gone(monkeypatch, tmp_path):
    mine = Holder.this_process()
    assert mine.is_alive()
    (tmp_path / "boot_id").write_text("6a1f2c04-91d3-4f0e-8f43-0d6ae4a1c9b7\n")
    monkeypatch.setattr(training_process, "_BOOT_ID", tmp_path / "boot_id")
    training_process._boot.cache_clear()
    assert not mine.is_alive() and Holder.this_process().is_alive()
    (tmp_path / "boot_id").unlink()  # a system that does not name its boots
    training_process._boot.cache_clear()
    assert not mine.is_alive() and Holder.this_process() == Holder(mine.pid, psutil.Process().create_time())
    monkeypatch.undo()
    training_process._boot.cache_clear()
    assert mine.is_alive()
    with pytest.raises(psutil.NoSuchProcess):
        Holder.of(4_123_456)


def test_a_number_that_no_process_has_is_interrupted(settings):
    folder = store.prepare(settings)
    free = next(pid for pid in range(4_000_000, 4_100_000) if not psutil.pid_exists(pid))
    queue.attend(folder.id, Holder(free, time.time()))
    folder.write_status(RunStatus(state="running", pid=free, pid_created=time.time()))
    assert state(folder) == "interrupted" == folder.status().state == queue.job(folder.id).state


@pytest.mark.parametrize("final", ["paused", "completed", "failed", "cancelled", "interrupted"])
def test_a_final_state_stays(settings, final):
    folder = store.prepare(settings)
    folder.write_status(RunStatus.of_this_process(final).model_copy(update={"message": "as it was"}))
    assert state(folder) == final == queue.job(folder.id).state
    assert folder.status().message == "as it was" and store.active() is None and queue.holding() is None


def test_a_run_that_is_being_prepared_holds_the_device(settings):
    """On the command line the heavy imports come between preparing a run and its first step; a page may look meanwhile."""
    folder = store.prepare(settings)
    assert state(folder) == "queued" and store.active().id == folder.id == queue.holding()
    with pytest.raises(TrainingError, match=folder.id):
        store.prepare(named(settings, "cap"))
    with pytest.raises(TrainingError, match=f"taken by the run {folder.id}"):
        queue.claim("another", Holder.this_process())
    folder.write_status(RunStatus.of_this_process("failed"))
    store.finished(folder, 1)
    assert queue.holding() is None and queue.job(folder.id).exit_code == 1
    assert store.prepare(settings).id != folder.id


def test_two_that_prepare_at_one_moment_do_not_both_run(settings, monkeypatch):
    acquire = queue.acquire

    def crowded(job_id, me):
        queue.add("somebody", "cap", me)
        queue.claim("somebody", me)
        return acquire(job_id, me)

    monkeypatch.setattr(queue, "acquire", crowded)
    with pytest.raises(TrainingError, match="under way"):
        store.prepare(settings)
    assert store.runs() == [] and [job.id for job in queue.jobs()] == ["somebody"]


def test_a_process_that_cannot_be_started_does_not_hold_the_device(settings, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(store.subprocess, "Popen", refuse)
    with pytest.raises(TrainingError, match="Cannot allocate memory"):
        store.start(settings)
    assert store.active() is None and [state(run) for run in store.runs()] == ["failed"]
    assert [job.state for job in queue.jobs()] == ["failed"]


@pytest.mark.parametrize("overrides, error, words", [
    ({"data": "/nowhere/pictures"}, DataError, "/nowhere/pictures"), ({"model": "sdxl"}, ModelNotFound, "sdxl"),
    ({"report_to": "tensorboard"}, InvalidInput, "report_to: the package 'tensorboard' is not installed")])
def test_what_cannot_work_is_refused_before_anything_is_written(
        settings, workers, spf_home, monkeypatch, overrides, error, words):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(error, match=words):
        store.start(settings.model_copy(update=overrides))
    assert not workers and not spf_home.exists()


def test_a_model_without_files_is_refused_before_anything_is_written(settings, spf_home, tiny, tmp_path):
    path = config.CONFIGS / "models" / "tiny.yaml"
    path.write_text(path.read_text().replace(tiny.pretrained_model_name_or_path + "\n", str(tmp_path / "gone") + "\n"))
    with pytest.raises(ModelNotFound, match="gone"):
        store.prepare(settings)
    assert not spf_home.exists()


def test_a_damaged_run_hides_only_itself(settings):
    good = store.prepare(settings)
    good.write_status(RunStatus.of_this_process("completed"))
    bad = store.prepare(settings)
    (bad.path / "status.json").write_text("{")
    assert [run.id for run in store.runs()] == [good.id] and store.active() is None
    with pytest.raises(TrainingError, match=f"{bad.id}/status.json is missing or damaged"):
        store.run(bad.id)


def test_a_job_whose_folder_was_deleted_does_not_stand_in_the_way(settings):
    folder = store.prepare(settings)
    shutil.rmtree(folder.path)
    queue.attend(folder.id, Holder(4_123_456, 0.0))
    assert store.active() is None and queue.job(folder.id).state == "interrupted"
    assert store.prepare(settings).path.exists()


def test_a_place_that_cannot_be_written_is_named(settings, spf_home, workers):
    spf_home.write_text("a file where the folder should be")
    for start in (store.start, store.prepare):
        with pytest.raises(TrainingError, match=f"{spf_home}/runs cannot be written .*SPF_HOME"):
            start(settings)
    assert not workers


def test_a_damaged_queue_is_named(settings, spf_home):
    spf_home.mkdir()
    (spf_home / "studio.sqlite").write_text("no database at all, but longer than the header of one " * 9)
    with pytest.raises(TrainingError, match="studio.sqlite cannot be used"):
        store.prepare(settings)
    assert store.runs() == []


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
        with pytest.raises(InvalidInput, match="does not exist"):
            store.run(unknown)


def test_looking_creates_nothing(spf_home):
    assert store.runs() == [] and store.active() is None and queue.jobs() == [] and not spf_home.exists()
