"""TensorCache: what comes back is what was written, or nothing."""

import errno
import logging
import os
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spf.data.cache import ABANDONED, Entry, TensorCache, key_of

KEYS = [key_of(number=index) for index in range(8)]


@pytest.fixture
def cache(tmp_path):
    return TensorCache(tmp_path / "cache", 10**9)


def entry(value: float = 1.0, size: int = 100) -> Entry:
    return Entry({"latents": torch.full((size,), value), "mask": torch.ones(2, 3, dtype=torch.bfloat16)}, "a note")


def test_what_is_put_is_got(cache):
    cache.put(KEYS[0], entry(3.0))
    found = cache.get(KEYS[0])
    assert found.note == "a note" and found.tensors.keys() == {"latents", "mask"}
    assert all(torch.equal(found.tensors[name], value) for name, value in entry(3.0).tensors.items())
    assert cache.get(KEYS[1]) is None
    cache.put(KEYS[0], entry(4.0))
    assert cache.get(KEYS[0]).tensors["latents"][0] == 4
    assert [path.suffix for path in cache.root.rglob("*") if path.is_file()] == [".safetensors"]


def test_views_and_empty_tensors(cache):
    whole = torch.arange(12.0).view(3, 4)
    cache.put(KEYS[0], Entry({"a": whole[:, 1], "b": whole.T, "c": torch.zeros(2, 0)}))
    found = cache.get(KEYS[0]).tensors
    assert torch.equal(found["a"], whole[:, 1]) and torch.equal(found["b"], whole.T) and found["c"].shape == (2, 0)


def test_a_key_depends_on_every_part_and_on_nothing_else():
    assert key_of(a=1, b="x") == key_of(b="x", a=1)
    assert len({key_of(a=1, b="x"), key_of(a=2, b="x"), key_of(a=1, b="y"), key_of(a=1), key_of(a="1", b="x")}) == 5


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_anywhere_makes_it_absent(tmp_path_factory, place, bit):
    cache = TensorCache(tmp_path_factory.mktemp("flip"), 10**9)
    cache.put(KEYS[0], entry())
    (path,) = cache.root.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    found = cache.get(KEYS[0])
    assert found is None or found.note == "a note" and torch.equal(found.tensors["latents"], entry().tensors["latents"])


@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 8, (2**62).to_bytes(8, "little") + b"{}"])
def test_a_damaged_file_is_absent_and_replaced(cache, content):
    cache.put(KEYS[0], entry())
    (path,) = cache.root.rglob("*.safetensors")
    for broken in (content, path.read_bytes()[:-1]):
        path.write_bytes(broken)
        assert cache.get(KEYS[0]) is None
    cache.put(KEYS[0], entry())
    assert cache.get(KEYS[0]) is not None


def test_the_least_recently_used_go_first(cache):
    for age, key in enumerate(KEYS):
        cache.put(key, entry())
        os.utime(cache._path(key), (1000 + age, 1000 + age))
    assert cache.trim() == 0
    size = cache._path(KEYS[0]).stat().st_size
    cache.get(KEYS[1])  # used just now
    cache.limit_bytes = 3 * size
    assert cache.trim() == 5 * size
    assert [key for key in KEYS if cache.get(key)] == [KEYS[1], KEYS[6], KEYS[7]]
    cache.limit_bytes = 0
    cache.trim()
    assert not any(map(cache.get, KEYS))


def test_abandoned_files_are_cleared_and_young_ones_left(cache):
    cache.put(KEYS[0], entry())
    folder = cache._path(KEYS[0]).parent
    (folder / ".old.partial").touch()
    (folder / ".young.partial").touch()
    os.utime(folder / ".old.partial", (time.time() - 2 * ABANDONED,) * 2)
    cache.trim()
    assert {path.name for path in folder.iterdir()} == {".young.partial", f"{KEYS[0]}.safetensors"}
    TensorCache(cache.root / "nowhere", 1).trim()


def test_a_full_disk_is_told_once_and_stops_nothing(cache, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with caplog.at_level(logging.WARNING):
        for key in KEYS:
            cache.put(key, entry())
    assert len(caplog.records) == 1 and "No space left" in caplog.text
    assert not any(map(cache.get, KEYS)) and not [path for path in cache.root.rglob("*") if path.is_file()]


def test_a_file_in_the_way_stops_nothing(tmp_path):
    (tmp_path / "cache").write_text("mine")
    cache = TensorCache(tmp_path / "cache", 10)
    cache.put(KEYS[0], entry())
    assert cache.get(KEYS[0]) is None and cache.trim() == 0 and (tmp_path / "cache").read_text() == "mine"
