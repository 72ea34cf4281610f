"""A page with stand-ins for the model and the training process; the browser tests also run it with the real ones."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `fakes`, under every import mode of pytest

import fakes

from spf import library
from spf.jobs import store


@pytest.fixture
def service() -> fakes.FakeService:
    return fakes.FakeService()


@pytest.fixture(autouse=True)
def shipped(request, tmp_path, monkeypatch) -> Path:
    """Where shipped customizations lie: one, for 'a winter hat'. Tests with the real model keep the real ones."""
    folder = tmp_path / "shipped"
    if "[real]" not in request.node.name:
        monkeypatch.setattr(library, "SHIPPED", folder)
        fakes.add_customization(folder, "winter-hat", "a winter hat", "a warm winter hat")
    return folder


@pytest.fixture
def training(monkeypatch):
    """Put a fake training process of the given length in place of the real one."""
    def install(**options) -> fakes.FakeTraining:
        fake = fakes.FakeTraining(**options)
        monkeypatch.setattr(store, "require_model", lambda preset: None)
        monkeypatch.setattr(store, "start", fake)
        monkeypatch.setattr(store, "resume", fake.resume)
        return fake

    return install
