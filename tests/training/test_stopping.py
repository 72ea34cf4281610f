"""Being stopped from outside, wherever the main thread is."""

import random
import signal
import threading
import time

import pytest

from spf.errors import Cancelled
from spf.training.stopping import _Stop, stopped_when


@pytest.fixture(autouse=True)
def nothing_is_left():
    before, threads = signal.getsignal(signal.SIGUSR1), threading.active_count()
    yield
    assert signal.getsignal(signal.SIGUSR1) == before and threading.active_count() == threads


@pytest.mark.parametrize("busy", [lambda: time.sleep(300), lambda: sum(iter(lambda: 1, 0))], ids=["waiting", "computing"])
def test_what_would_not_end_ends(busy):
    with pytest.raises(Cancelled, match="cancelled"), stopped_when(lambda: True):
        busy()


def test_nobody_asks():
    looks = []
    with stopped_when(lambda: bool(looks.append(1))):
        time.sleep(0.3)
    assert looks, "it was looked, and nothing was raised"


def test_a_system_without_signals_is_left_to_who_looks_between_steps(monkeypatch):
    monkeypatch.setattr("spf.training.stopping._SIGNAL", None)
    looks = []
    with stopped_when(lambda: bool(looks.append(1))):
        time.sleep(0.3)
    assert looks == []


def test_it_is_raised_once():
    """What a library does with it, or clears up after it, is not disturbed again."""
    with stopped_when(lambda: True):
        with pytest.raises(_Stop):
            time.sleep(300)
        time.sleep(0.5)


def test_nobody_takes_it_for_an_error_of_a_file():
    with pytest.raises(Cancelled), stopped_when(lambda: True):
        try:
            time.sleep(300)
        except Exception:
            raise OSError("the file is damaged") from None


def test_another_thread_is_left_alone():
    done = []

    def work():
        with stopped_when(lambda: True):
            time.sleep(0.3)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_asked_at_the_very_end(monkeypatch):
    """It is raised or it is not, but never later, and nothing is left of it."""
    monkeypatch.setattr("spf.training.stopping.POLL", 0.002)
    ends, rng = [], random.Random(0)
    for _ in range(100):
        try:
            with stopped_when(lambda: True):
                time.sleep(rng.uniform(0.0, 0.005))
            ends.append("done")
        except Cancelled:
            ends.append("cancelled")
        time.sleep(0.001)
    assert {"done", "cancelled"} == set(ends)
