"""Tiny models in the published formats, made once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `published`, under every import mode of pytest

import published  # noqa: E402


@pytest.fixture(scope="session")
def sd15():
    return published.sd15()


@pytest.fixture(scope="session")
def sd35():
    return published.sd35()


@pytest.fixture(scope="session")
def sd15_folder(sd15, tmp_path_factory):
    """A diffusers folder; also the architecture of single files. Read-only."""
    return published.save_folder(sd15, tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="session")
def sd35_folder(sd35, tmp_path_factory):
    return published.save_folder(sd35, tmp_path_factory.mktemp("sd35"))


@pytest.fixture(scope="session")
def sd15_file(sd15, tmp_path_factory):
    return published.write(tmp_path_factory.mktemp("files") / "sd15.safetensors", published.ldm(sd15))
