"""Picture sets on this computer: listed, reported on, and their captions changed; without a browser."""

import pytest

from spf.data.records import read_folder
from spf.errors import InvalidInput
from spf.pocket.dataset import render_folder
from spf.ui import dataset_handlers as handlers


@pytest.fixture
def hats(spf_home):
    (spf_home / "datasets").mkdir(parents=True)
    return render_folder("winter-hat", 3, spf_home / "datasets" / "hats", size=64)


def test_sets_are_listed_and_reported_on(hats):
    assert handlers.folders() == {"hats": hats}
    assert handlers.report("hats").startswith("3 usable pictures")
    (hats / handlers.captions("hats")[0][0]).write_bytes(b"broken")
    assert "1 problem" in handlers.report("hats")


def test_changed_captions_are_what_is_trained_on(hats):
    rows = handlers.captions("hats")
    rows[1] = [rows[1][0], "a  portrait of my aunt", "a winter hat"]
    assert "3 usable pictures" in handlers.save_captions("hats", rows)
    assert [record.base_text for record in read_folder(hats)][1] == "a portrait of my aunt"
    assert [path.suffix for path in hats.iterdir() if path.suffix == ".partial"] == []


@pytest.mark.parametrize("row", [("", "a hat"), ("a person", ""), ("a hat", "A hat"), (None, "a hat"), ("x" * 3000, "a hat")])
def test_captions_that_cannot_be_used_change_nothing(hats, row):
    before = (hats / "metadata.jsonl").read_bytes()
    rows = handlers.captions("hats")
    rows[0][1:] = row
    with pytest.raises(InvalidInput, match=f"data: {rows[0][0]}: "):
        handlers.save_captions("hats", rows)
    assert (hats / "metadata.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", [None, "", "..", "../customizations", "/etc", "hats/.."])
def test_only_listed_sets_can_be_reached(hats, name):
    for act in (lambda: handlers.report(name), lambda: handlers.captions(name), lambda: handlers.save_captions(name, [])):
        with pytest.raises(InvalidInput, match="nothing is chosen"):
            act()
