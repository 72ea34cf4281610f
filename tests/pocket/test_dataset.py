"""Picture folders of the embedded world."""

import json

import numpy as np
import pytest
from PIL import Image

from spf.data.records import read_folder
from spf.errors import DataError, InvalidInput
from spf.pocket.dataset import render_folder, training_caption
from spf.pocket.world import TARGETS


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("attribute", TARGETS)
def test_what_is_rendered_can_be_trained_on(tmp_path, attribute):
    folder = render_folder(attribute, 3, tmp_path / attribute, seed=1, size=64)
    records = read_folder(folder)
    assert len(records) == 3 and {record.target_text for record in records} == {TARGETS[attribute].phrase}
    assert all(record.path.is_file() for record in records)


def test_same_arguments_same_bytes(tmp_path):
    first, again, other = (contents(render_folder("turban", 3, tmp_path / name, seed=seed, size=64))
                           for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert sorted(first) == ["00000.png", "00001.png", "00002.png", "metadata.jsonl"]
    assert first == again and not any(first[name] == other[name] for name in first)


def test_a_longer_set_begins_with_the_shorter_one(tmp_path):
    short, long = (contents(render_folder("neon", count, tmp_path / str(count), size=64)) for count in (2, 3))
    assert all(long[name] == short[name] for name in short if name.endswith(".png"))
    assert long["metadata.jsonl"].startswith(short["metadata.jsonl"])


def test_metadata_is_the_imagefolder_convention(tmp_path):
    lines = (render_folder("freckles", 2, tmp_path / "set", size=64) / "metadata.jsonl").read_text().splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"file_name", "base_text", "target_text"}] * 2


def test_all_attributes_in_turn(tmp_path):
    records = read_folder(render_folder("all", len(TARGETS) + 1, tmp_path / "set", size=64))
    assert [record.target_text for record in records[:-1]] == [target.phrase for target in TARGETS.values()]
    assert records[-1].target_text == records[0].target_text and records[-1].base_text != records[0].base_text


def test_several_attributes_in_one_picture_are_all_named(tmp_path):
    together = read_folder(render_folder("all", 40, tmp_path / "set", size=64, together=3))
    alone = read_folder(render_folder("all", 40, tmp_path / "alone", size=64))
    phrases = {target.phrase for target in TARGETS.values()}
    named = [record.target_text.split(", ") for record in together]
    assert {len(names) for names in named} == {1, 2, 3} and all(len(set(names)) == len(names) for names in named)
    assert all(phrases.issuperset(names) for names in named)
    assert [names[0] for names in named] == [record.target_text for record in alone]


def test_masks_show_where_any_of_several_attributes_is(tmp_path):
    folder = render_folder("winter-hat", 12, tmp_path / "set", size=64, masks=True, together=2)
    alone = render_folder("winter-hat", 12, tmp_path / "alone", size=64, masks=True)
    larger = [np.asarray(Image.open(folder / "masks" / path.name)).sum() > np.asarray(Image.open(path)).sum()
              for path in sorted((alone / "masks").iterdir())]
    assert any(larger) and not all(larger)


def test_some_base_texts_name_what_the_target_hides():
    texts = [training_caption("winter-hat", 0, index) for index in range(400)]
    words = ("hair", "afro", "cut", "quiff", "dreadlocks")
    share = sum(any(word in text for word in words) for text in texts) / 400
    assert abs(share - (1 - 0.4 ** 2)) < 0.07, "each of style and colour in six of ten"


@pytest.mark.parametrize("attribute, count, field", [
    ("moustache", 3, "--attribute"), ("", 3, "--attribute"), ("turban", 0, "--count"), ("turban", -1, "--count"),
    ("turban", 10_001, "--count")])
def test_bad_arguments_write_nothing(tmp_path, attribute, count, field):
    with pytest.raises(InvalidInput) as caught:
        render_folder(attribute, count, tmp_path / "set")
    assert caught.value.field == field and not list(tmp_path.iterdir())


@pytest.mark.parametrize("together", [0, -1, 5])
def test_a_bad_number_of_attributes_writes_nothing(tmp_path, together):
    with pytest.raises(InvalidInput, match="--together: must lie between 1 and 4"):
        render_folder("turban", 2, tmp_path / "set", together=together)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="notes.txt"):
        render_folder("turban", 2, tmp_path, size=64)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_captions_are_known_without_rendering(tmp_path):
    records = read_folder(render_folder("mohawk", 3, tmp_path / "set", seed=4, size=64))
    assert [record.base_text for record in records] == [training_caption("mohawk", 4, index) for index in range(3)]
