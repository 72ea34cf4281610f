"""The process that looks after a run, in this process: its verdicts and its patience."""

import json
import sys

import pytest
from stand_in import TRAINER

from spf.errors import InvalidInput
from spf.jobs import queue, store, worker
from spf.training.run_folder import RunStatus


@pytest.fixture
def work(settings, monkeypatch):
    """work(behaviour): a queued run seen through by a worker whose child trains like that."""
    monkeypatch.setattr(worker, "POLL", 0.05)
    monkeypatch.setattr(worker, "GRACE", 0.2)

    def see_through(behaviour: str, **options):
        folder = store._add(settings)
        command = [sys.executable, "-S", "-c", TRAINER, behaviour, str(folder.path)]
        return folder, worker.work(folder, command, **options)

    return see_through


def test_a_trainer_that_hangs_is_ended_and_told(work):
    folder, ended = work("deaf", silence=1.0)
    assert ended.state == "failed" and "no sign of life" in ended.message
    assert queue.job(folder.id).exit_code == -9 and queue.holding() is None


def test_a_run_that_is_not_queued_is_refused(spf_home):
    with pytest.raises(InvalidInput, match="run: 'gone' is not in the queue"):
        worker.work(worker.RunFolder(spf_home / "runs" / "gone"))
    assert not spf_home.exists()


def test_a_trainer_that_is_not_there_fails(settings):
    ended = worker.work(folder := store._add(settings), ["/no/such/program"])
    assert ended.state == "failed" and "could not be started" in ended.message
    assert queue.job(folder.id).state == "failed" and queue.holding() is None


def test_a_run_is_called_off_while_it_waits(settings, monkeypatch):
    monkeypatch.setattr(queue, "acquire", lambda *args: False)
    for what, expected in (("cancel", "cancelled"), ("pause", "paused")):
        folder = store._add(settings)
        folder.request(what)
        assert worker.work(folder, ["/no/such/program"]).state == expected == queue.job(folder.id).state


def test_a_status_that_cannot_be_written_still_ends_the_job(work, monkeypatch):
    def full(self, status):
        raise OSError(28, "No space left on device")

    create = store._add

    def then_full(settings):
        folder = create(settings)
        monkeypatch.setattr(worker.RunFolder, "write_status", full)
        return folder

    monkeypatch.setattr(store, "_add", then_full)
    folder, ended = work("exit 1")
    assert ended.state == "failed" == queue.job(folder.id).state and queue.holding() is None


def test_completed_needs_the_customization_of_this_very_run(settings, tmp_path):
    folder = store._add(settings)
    folder.write_status(RunStatus(state="completed", message="hat"))
    assert worker.verdict(folder, 0, "").state == "failed"
    written = store.home() / "customizations" / "hat"
    written.mkdir(parents=True)
    card = {"name": "hat", "model": "tiny", "model_sha256": "0" * 64, "phrases": [], "stage": "both", "created": "",
            "summary": {"run": "another"}}
    for run_id, weights, expected in (("another", True, "failed"), (folder.id, False, "failed"), (folder.id, True, "completed")):
        (written / "customization.json").write_text(json.dumps(card | {"summary": {"run": run_id}}))
        (written / "weights.safetensors").write_bytes(b"x") if weights else (written / "weights.safetensors").unlink()
        assert worker.verdict(folder, 0, "").state == expected


def test_a_trainer_that_works_without_a_word_is_left_alone(work):
    folder, ended = work("busy", silence=1.5)
    assert ended.state == "failed" and "without a result" in ended.message and queue.job(folder.id).exit_code == 0
