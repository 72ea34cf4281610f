"""What app.py decides before it serves; its flags are with the page's bad input."""

import os

import pytest
import torch

import app


@pytest.fixture
def threads(monkeypatch):
    """threads(own, cores): how many threads are used after torch wanted `own` on so many cores."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)

    def decide(own: int, cores: int) -> int:
        used[:] = [own]
        monkeypatch.setattr(torch, "get_num_threads", lambda: own)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
        app._leave_a_core()
        return used[-1]

    return decide


@pytest.mark.parametrize(("own", "cores", "used"), [(1, 1, 1), (2, 2, 1), (2, 4, 2), (4, 4, 3), (4, 8, 4)])
def test_the_browser_has_a_core_of_its_own(threads, own, cores, used):
    assert threads(own, cores) == used


def test_the_environment_may_say_otherwise(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads(2, 2) == 2


def test_without_affinity_every_core_counts(threads, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    threads(2, 2)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    app._leave_a_core()
    assert used == [1]
