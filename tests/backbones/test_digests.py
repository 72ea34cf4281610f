"""The hash of a large file is worked out once, and anew when the file is another one."""

import hashlib
import json
import os
import shutil

import published
import pytest
import torch

from spf.backbones import digests
from spf.backbones.checkpoints import customization, denoiser_hash, save_customization
from spf.errors import CustomizationError, ModelNotFound
from spf.library import CustomizationCard


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A weights file that counts as large."""
    monkeypatch.setattr(digests, "KEPT_FROM", 1)
    return published.write(tmp_path / "model.safetensors", {"a": torch.ones(1000)})


def another_process(monkeypatch) -> list[str]:
    """Forget what this process knows; returns the names of files that are read whole from now on."""
    digests._sha256.cache_clear()
    read, digest = [], digests._digest
    monkeypatch.setattr(digests, "_digest", lambda path: read.append(path.name) or digest(path))
    return read


def test_the_next_process_knows_it_and_another_content_is_read_anew(file, spf_home, monkeypatch):
    first = digests.sha256(file)
    assert first == hashlib.sha256(file.read_bytes()).hexdigest()
    read = another_process(monkeypatch)
    assert digests.sha256(file) == first and read == []
    link = file.with_name("link.safetensors")
    link.symlink_to(file)
    assert digests.sha256(link) == first and read == [], "a file is known by where it is, not by what it is called"
    published.write(file, {"a": torch.zeros(1000)})
    assert digests.sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest() != first and read == [file.name]
    assert [path.name for path in spf_home.iterdir()] == ["digests.json"]


def test_a_file_put_in_its_place_with_the_same_time_is_another_one(file, tmp_path, monkeypatch):
    first, stamp = digests.sha256(file), file.stat()
    other = published.write(tmp_path / "other.safetensors", {"a": torch.zeros(1000)})
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    os.replace(other, file)
    another_process(monkeypatch)
    assert file.stat().st_mtime_ns == stamp.st_mtime_ns and digests.sha256(file) != first


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000, b'{"x": 1}', None])
def test_damage_costs_time_and_nothing_else(file, spf_home, monkeypatch, content):
    spf_home.mkdir()
    known = spf_home / "digests.json"
    if content is None:  # an entry of another form
        content = json.dumps({str(file.resolve()): [None, 7]}).encode()
    known.write_bytes(content)
    read = another_process(monkeypatch)
    assert digests.sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest() and read == [file.name]
    another_process(monkeypatch)
    assert digests.sha256(file) and read == [file.name], "and now it is kept"


def test_where_nothing_can_be_kept_everything_is_read(file, monkeypatch):
    monkeypatch.setenv("SPF_HOME", "/proc/gone")
    assert digests.sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_small_files_leave_no_trace(tmp_path, spf_home):
    assert digests.sha256(published.write(tmp_path / "model.safetensors", {"a": torch.ones(2)})) and not spf_home.exists()


def test_what_is_no_model_is_never_read(tmp_path, monkeypatch):
    read = another_process(monkeypatch)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    os.truncate(path, 1 << 40)
    with pytest.raises(ModelNotFound, match="damaged"):
        digests.sha256(path)
    assert read == []


def test_a_customization_of_another_model_is_refused_without_reading_the_model_again(sd15_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "KEPT_FROM", 1)
    model = published.preset(shutil.copytree(sd15_folder, tmp_path / "model"))
    denoiser_hash(model)
    read = another_process(monkeypatch)
    save_customization(CustomizationCard(name="hat", model="other", model_sha256="0" * 64, phrases=("a hat",), stage="both",
                                         created="2026-01-01T00:00:00Z"), {"a": torch.ones(1)})
    with pytest.raises(CustomizationError, match="was trained on another model"):
        customization("hat", model)
    assert read == []
