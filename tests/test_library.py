"""Renaming, discarding and bringing back what the user has; what comes with the app stays."""

import json
import os
from pathlib import Path

import pytest

from spf import library
from spf.config import MAX_TEXT
from spf.errors import CustomizationError, InvalidInput


def add(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / library.WEIGHTS).write_bytes(b"weights")
    (folder / library.CARD).write_text(json.dumps({
        "name": name, "model": "pocket", "model_sha256": "0" * 64, "phrases": ["a hat"], "stage": "both", "created": "2026"}))
    return folder


@pytest.fixture(autouse=True)
def own(spf_home, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(library, "SHIPPED", tmp_path / "shipped")
    add(tmp_path / "shipped", "shipped-hat")
    return add(spf_home / "customizations", "my-hat")


def test_a_new_name_is_in_folder_and_card(own):
    renamed = library.rename("my-hat", "best-hat")
    assert set(library.customizations()) == {"shipped-hat", "best-hat"} and not own.exists()
    assert renamed.card.name == "best-hat" and (renamed.folder / library.WEIGHTS).read_bytes() == b"weights"


@pytest.mark.parametrize("wish", ["shipped-hat", "my-hat", "../x", "A Hat", "", "x" * 65])
def test_a_name_that_cannot_be_had_changes_nothing(own, wish):
    with pytest.raises(InvalidInput, match="name"):
        library.rename("my-hat", wish)
    assert library.customizations()["my-hat"].card.name == "my-hat" and len(list(own.iterdir())) == 2


def test_a_discarded_one_can_be_brought_back(own):
    trashed = library.discard("my-hat")
    assert "my-hat" not in library.customizations()
    assert library.restore(trashed) == "my-hat" and "my-hat" in library.customizations()
    with pytest.raises(CustomizationError, match="not in the trash"):
        library.restore(library.discard("my-hat").with_name("my-hat-0"))


def test_a_name_that_was_taken_meanwhile_is_not_overwritten(own):
    trashed = library.discard("my-hat")
    add(own.parent, "my-hat")
    with pytest.raises(CustomizationError, match="exists again"):
        library.restore(trashed)


@pytest.mark.parametrize("name, words", [
    ("shipped-hat", "comes with the app"), ("nothing", "does not exist"), ("../x", "does not exist")])
def test_what_is_not_the_users_stays(name, words):
    for act in (library.discard, lambda name: library.rename(name, "other")):
        with pytest.raises(CustomizationError, match=words):
            act(name)


def test_a_name_that_a_damaged_folder_has_changes_nothing(own):
    (own.parent / "best-hat").mkdir()
    (own.parent / "best-hat" / library.WEIGHTS).write_bytes(b"of somebody else")
    with pytest.raises(InvalidInput, match="'best-hat' is a folder already"):
        library.rename("my-hat", "best-hat")
    assert library.customizations()["my-hat"].folder == own and (own.parent / "best-hat" / library.WEIGHTS).exists()


@pytest.mark.parametrize("change", [
    {"model_sha256": "../../x"}, {"model_sha256": "\x1b[2J"}, {"phrases": ["a" * 100_000]}, {"created": "x" * 10_000},
    {"stage": "y" * 100}, {"name": "../../my-hat"}, {"more": 1}])
def test_a_card_with_hostile_content_is_listed_nowhere(own, change):
    path = own / library.CARD
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert list(library.customizations()) == ["shipped-hat"]


def test_an_endless_card_is_not_read(own):
    os.truncate(own / library.CARD, 64 << 30)  # sparse
    assert list(library.customizations()) == ["shipped-hat"]


def test_the_most_and_longest_phrases_that_training_writes_are_read(own):
    path = own / library.CARD
    phrases = tuple(chr(0x1F600 + index) * MAX_TEXT for index in range(library.MAX_PHRASES))
    path.write_text(library.read_card(path).model_copy(update={"phrases": phrases}).model_dump_json(indent=2), encoding="utf-8")
    assert library.customizations()["my-hat"].card.phrases == phrases
