"""A model as the source of a training set."""

import pytest
from PIL import ImageChops

from spf.data.records import read_folder
from spf.errors import DataError, InvalidInput
from spf.generation.service import GenerationService
from spf.generation.source import draw_folder, read_base_texts, requests_for

TEXTS = ["a person, with red hair", "a person, smiling"]
FEW = {"model": "tiny", "num_inference_steps": 1, "guidance_scale": 2.0}


def test_one_picture_per_text_with_the_target(tiny, tmp_path):
    service = GenerationService("cpu")
    requests = requests_for(TEXTS, "a winter hat", 5, **FEW)
    assert [request.seed for request in requests] == [5, 6]
    assert draw_folder(service, requests, tmp_path / "set") == 2
    records = read_folder(tmp_path / "set")
    assert [(record.base_text, record.target_text) for record in records] == [(text, "a winter hat") for text in TEXTS]
    from PIL import Image

    with Image.open(records[1].path) as drawn:
        assert ImageChops.difference(drawn.convert("RGB"), service.generate(requests[1]).customized).getbbox() is None


def test_other_peoples_files_stay(tiny, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match="other files"):
        draw_folder(GenerationService("cpu"), requests_for(TEXTS, "a hat", 0, **FEW), tmp_path)


def test_texts_of_a_file(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeff# mine\n\n  a man  \r\na woman\n".encode())
    assert read_base_texts(path) == ["a man", "a woman"]


@pytest.mark.parametrize("content, words", [
    (b"", "0 texts"), (b"# only\n\n", "0 texts"), (b"\xff\xfe", "UTF-8"), (b"a\n" * 10_001, "10,001 texts"),
    (b"a" * (5 * 2**20), "MiB"), (None, "cannot be read")])
def test_bad_files(tmp_path, content, words):
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match=words):
        read_base_texts(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_base_texts(tmp_path)


@pytest.mark.parametrize("texts, target, seed, words", [
    (["a man", " , "], "a hat", 0, "base_text: text 2: is empty"), (["a man", "A hat"], "a hat", 0, "equals"),
    (["a man"], "", 0, "target_texts"), (["a man"] * 3, "a hat", 2**63 - 2, "seed"), (["a man"], "a hat", -1, "seed")])
def test_bad_requests_are_refused_before_anything_is_drawn(tiny, texts, target, seed, words):
    with pytest.raises(InvalidInput, match=words):
        requests_for(texts, target, seed, **FEW)
