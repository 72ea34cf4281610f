"""Several processes that ask for trainings at one moment: each is done once, and nobody fails."""

import os
import signal
import sqlite3

import pytest
import torch
from stand_in import until

from spf import config
from spf.jobs import queue, store
from spf.jobs.once import equal_run, train_once
from spf.jobs.queue import Holder
from spf.training import preview
from tests.processes import SERVER, process


@pytest.fixture
def settings(tiny, picture_folder, monkeypatch):
    monkeypatch.setattr(preview, "PREVIEW_STEPS", 1)

    def make(name: str = "hat", **changes) -> config.TrainConfig:
        values = {"data": str(picture_folder), "name": name, "stage": "1", "stage1.max_train_steps": 2}
        return config.train_config("tiny", values | changes)

    return make


def _train(chosen, lease, answers):
    torch.set_num_threads(1)
    folder, written = train_once(chosen, torch.device("cpu"), lease)
    answers.put((folder.id, written.card.summary["run"]))


@pytest.fixture
def ask(settings):
    """ask(settings, lease): a process of its own that wants this training. `ask.answers` gets what each was told."""
    patches = [("spf.config", "CONFIGS", config.CONFIGS), ("spf.training.preview", "PREVIEW_STEPS", preview.PREVIEW_STEPS)]
    started = []

    def ask(chosen, lease):
        started.append(process(_train, chosen, lease, ask.answers, patches=patches))
        started[-1].start()
        return started[-1]

    ask.answers = SERVER.Queue()
    yield ask
    for one in started:
        if one.is_alive():
            one.kill()
        one.join()


def _ended(*processes):
    for one in processes:
        one.join(60)
    return [one.exitcode for one in processes]


@pytest.mark.parametrize("second", ["cpu 2/2", "cpu 1/2"])
def test_the_same_training_is_done_once_and_both_have_it(settings, ask, second):
    both = ask(settings(), "cpu 1/2"), ask(settings(), second)
    assert _ended(*both) == [0, 0]
    (run,) = store.runs()
    assert {ask.answers.get(timeout=5), ask.answers.get(timeout=5)} == {(run.id, run.id)} and len(queue.jobs()) == 1
    assert store.status(run).state == "completed" and queue.holding() is None
    assert _ended(ask(settings(), "cpu 1/1")) == [0] and len(store.runs()) == 1, "it is there"


def test_other_trainings_wait_for_their_turn_on_one_device(settings, ask):
    both = ask(settings("hat"), "cuda:0"), ask(settings("cap"), "cuda:0")
    until(lambda: len(store.runs()) == 2)
    until(lambda: queue.holding() is not None)
    assert sum(job.state == "running" for job in queue.jobs()) <= 1
    assert _ended(*both) == [0, 0] and queue.holding() is None
    assert [store.status(run).state for run in store.runs()] == ["completed", "completed"]


def test_a_device_has_one_holder_and_parts_of_it_have_one_each(spf_home):
    me = Holder.this_process()
    for job, device in (("a", "cuda:0"), ("b", "cuda:0"), ("c", "cpu 1/2"), ("d", "cpu 2/2")):
        queue.add(job, f"name-{job}", me, device)
    assert [queue.acquire(job, me) for job in "abcd"] == [True, False, True, True]
    queue.finish("c", "completed", "", 0, "")
    assert not queue.acquire("b", me)
    queue.finish("a", "completed", "", 0, "")
    assert queue.acquire("b", me) and queue.holding() == "d"


def test_a_training_that_was_killed_goes_on_and_is_not_begun_again(settings, ask):
    chosen = settings(**{"stage1.max_train_steps": 400, "checkpoint_every": 1})
    first = ask(chosen, "cpu 1/1")
    until(lambda: store.runs() and list(store.runs()[0].path.glob("checkpoint-*")))
    waits = ask(chosen, "cpu 2/2")
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    run = store.runs()[0]
    reached = run.status().step
    until(lambda: run.status().step > reached)
    run.request("pause")
    assert _ended(waits) == [1] and store.status(run).state == "paused" and [run.id] == [found.id for found in store.runs()]


def test_other_settings_are_another_training(settings, ask):
    assert _ended(ask(settings(), "cpu 1/1")) == [0]
    assert equal_run(settings()).id == store.runs()[0].id and equal_run(settings(seed=1)) is None
    (store.runs()[0].path / "config.yaml").write_text("no: settings")
    assert equal_run(settings()) is None


def test_a_result_that_is_gone_is_made_again(settings, ask, spf_home):
    assert _ended(ask(settings(), "cpu 1/1")) == [0]
    (spf_home / "customizations" / "hat" / "weights.safetensors").unlink()
    assert _ended(ask(settings(), "cpu 1/1")) == [0] and len(store.runs()) == 2


def test_the_queue_of_an_earlier_version_can_be_used(spf_home):
    me = Holder.this_process()
    queue.add("first", "hat", me)
    database = sqlite3.connect(queue.path())
    database.execute("ALTER TABLE jobs DROP COLUMN device")
    database.close()
    queue.add("second", "cap", me)
    assert queue.acquire("first", me) and not queue.acquire("second", me)
