"""A folder is put in the place of another as a whole, also where names cannot be exchanged in one step."""

import os
import threading
from pathlib import Path

import pytest

from spf import files

exchanging = pytest.mark.parametrize("exchanges", [True, False], ids=["in one step", "in two"])


@pytest.fixture
def system(monkeypatch):
    """system(exchanges): one that can exchange two names in one step, or one that cannot."""
    def choose(exchanges: bool) -> None:
        if not exchanges:
            monkeypatch.setattr(files, "_exchange", lambda one, other: False)

    return choose


def folder(path: Path, words: str) -> Path:
    path.mkdir()
    (path / "words").write_text(words)
    return path


@exchanging
@pytest.mark.parametrize("there", [True, False], ids=["replaced", "new"])
def test_a_folder_takes_the_place_and_nothing_else_is_left(tmp_path, system, exchanges, there):
    system(exchanges)
    target = tmp_path / "target"
    if there:
        folder(target, "old")
        (target / "only here").touch()
    files.replace_folder(folder(tmp_path / ".staged", "new"), target)
    assert (target / "words").read_text() == "new" and os.listdir(target) == ["words"]
    assert os.listdir(tmp_path) == ["target"]


@exchanging
def test_what_cannot_be_put_there_leaves_the_folder_as_it_was(tmp_path, system, exchanges):
    system(exchanges)
    target = folder(tmp_path / "target", "old")
    with pytest.raises(FileNotFoundError):
        files.replace_folder(tmp_path / "missing", target)
    assert (target / "words").read_text() == "old" and os.listdir(tmp_path) == ["target"]


def test_the_folder_is_there_at_every_moment(tmp_path):
    """Seen from another thread, where this system and this disk can exchange names."""
    if not files._exchange(folder(tmp_path / "one", "1"), folder(tmp_path / "other", "2")):
        pytest.skip("names cannot be exchanged in one step here")
    assert (tmp_path / "one" / "words").read_text() == "2"
    target, missing, done = folder(tmp_path / "target", "0"), [], threading.Event()

    def look():
        while not done.is_set():
            missing.extend([] if target.exists() else [1])

    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(200):
        files.replace_folder(folder(tmp_path / ".staged", str(number)), target)
    done.set()
    watcher.join()
    assert not missing and (target / "words").read_text() == "199"
