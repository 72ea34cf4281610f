"""Drawing while a run trains: where the measured memory suffices, and refused with the run's name where it does not."""

import pytest
import torch

from spf import config
from spf.config import GenerationRequest
from spf.errors import MemoryShort
from spf.generation import room
from spf.generation.room import free_bytes, needed_bytes
from spf.generation.service import GenerationService
from spf.jobs import beside, queue
from spf.jobs.beside import MARGIN, require_room
from spf.jobs.queue import Holder

CPU = torch.device("cpu")


@pytest.fixture
def training(spf_home):
    """A run that has the device."""
    queue.add("20260101-hat", "hat", Holder.this_process())
    assert queue.acquire("20260101-hat", Holder.this_process())


def asked(**changes) -> GenerationRequest:
    return config.parse(GenerationRequest, {
        "model": "tiny", "base_text": "a person", "num_inference_steps": 1, "map_steps": 0, **changes})


def test_drawing_beside_training_where_memory_suffices(training, tiny, monkeypatch):
    measured = []
    monkeypatch.setattr(beside, "free_bytes", lambda device: measured.append(device) or 10**12)
    assert GenerationService(CPU, admit=require_room).generate(asked()).original.size == (64, 64)
    assert measured == [CPU]


def test_a_named_refusal_where_it_does_not_and_drawing_once_the_run_is_done(training, tiny, monkeypatch):
    service = GenerationService(CPU, admit=require_room)
    monkeypatch.setattr(beside, "free_bytes", lambda device: 3 * 10**8)
    with pytest.raises(MemoryShort, match="run 20260101-hat is training and leaves 0.3 GB free on cpu.*pause 20260101-hat"):
        service.generate(asked())
    assert not service._models, "refused before anything is loaded"
    queue.finish("20260101-hat", "completed", "", 0, "")
    assert service.generate(asked()).original.size == (64, 64)


def test_the_boundary_is_what_is_needed_and_the_margin(training, monkeypatch):
    monkeypatch.setattr(beside, "free_bytes", lambda device: 1000 + MARGIN)
    require_room(1000, CPU)
    with pytest.raises(MemoryShort):
        require_room(1001, CPU)


def test_nobody_is_asked_while_nothing_trains(spf_home, monkeypatch):
    monkeypatch.setattr(beside, "free_bytes", lambda device: pytest.fail("measured"))
    require_room(10**15, CPU)


def test_the_command_line_refuses_too(training, tiny, command_line, monkeypatch, tmp_path):
    monkeypatch.setattr(beside, "free_bytes", lambda device: 0)
    status, out, err = command_line("generate", "--model", "tiny", "--base", "a person", "--out", str(tmp_path / "out"),
                                    "--device", "cpu")
    assert (status, out) == (2, "") and err.startswith("error: generate: the run 20260101-hat is training")


@pytest.mark.parametrize("family", ["unet", "mmdit"])
def test_what_a_portrait_needs(tiny):
    service = GenerationService(CPU)
    service.load("tiny")
    loaded = service._models["tiny"].reference

    def needed(reference, **changes):
        return needed_bytes(asked(**changes), tiny, reference)

    weights = sum(value.numel() * 4 for network in loaded.networks().values() for value in network.parameters())
    assert needed(None) - needed(loaded) >= weights, "what is not loaded counts"
    assert needed(loaded, height=128) == 2 * needed(loaded)
    own = sum(value.numel() * 4 for value in loaded.denoiser.parameters())
    assert needed(loaded, customization="hat") - needed(loaded) == own


def test_free_memory_is_measured_within_the_limit_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "CGROUP", tmp_path)
    unlimited = free_bytes(CPU)
    assert unlimited > 10**6
    for name, content in {"memory.max": "9000", "memory.current": "5000", "memory.stat": "anon 1\ninactive_file 700\n"}.items():
        (tmp_path / name).write_text(content)
    assert free_bytes(CPU) == 4700
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) > 10**6
