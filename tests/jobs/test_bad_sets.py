"""Bad training sets through the door that every training run takes: one report that names the file, and nothing started.

The settings stay as they were: after the set is corrected, the same ones are accepted.
"""

import io
import json
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from spf import config
from spf.backbones import checkpoints, loading
from spf.errors import DataError
from spf.jobs import store

HAT = {"target_texts": ["a winter hat"]}


def picture(seed: int, size=(96, 80)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))


def encoded(suffix: str, **options) -> bytes:
    stream = io.BytesIO()
    picture(9).save(stream, suffix, **options)
    return stream.getvalue()


class Set:
    """A good set of eight pictures with metadata.jsonl, to be spoilt."""

    def __init__(self, root):
        self.root = root
        root.mkdir()
        self.rows = []
        for index in range(8):
            picture(index).save(root / f"{index}.png")
            self.add(f"{index}.png", f"a person, scene {index}")

    def add(self, name, base="a person, at sea", target="a winter hat", **more):
        self.rows.append({"file_name": name, "base_text": base, "target_text": target, **more})
        self.write()

    def change(self, **values):
        self.rows[3].update(values)
        self.write()

    def raw(self, line: bytes):
        with (self.root / "metadata.jsonl").open("ab") as stream:
            stream.write(line + b"\n")

    def write(self):
        (self.root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def content(self, content: bytes, name="3.png"):
        (self.root / name).write_bytes(content)

    def captions(self, *captions):
        """The same pictures with caption files in place of the metadata."""
        (self.root / "metadata.jsonl").unlink()
        for index in range(8):
            (self.root / f"{index}.txt").write_text(captions[index] if index < len(captions) else "a man, a winter hat")


def other_folder(good):
    shutil.rmtree(good.root)


def file_instead(good):
    shutil.rmtree(good.root)
    good.root.write_text("mine")


def empty_folder(good):
    shutil.rmtree(good.root)
    good.root.mkdir()


def kohya(name, *captions):
    def spoil(good):
        good.captions(*captions)
        (good.root / name).mkdir()
        for path in list(good.root.iterdir()):
            if path.is_file():
                path.rename(good.root / name / path.name)

    return spoil


def linked(good, target):
    (good.root / "3.png").unlink()
    (good.root / "3.png").symlink_to(target)


def pipe(good):
    (good.root / "3.png").unlink()
    os.mkfifo(good.root / "3.png")


def phone_pictures(good):
    empty_folder(good)
    (good.root / "IMG_1.HEIC").write_bytes(bytes(4) + b"ftypheic")


# name: (what spoils the set, further settings, words of the one report)
BAD = {
    "no folder": (other_folder, {}, "does not exist"),
    "a file for a folder": (file_instead, {}, "is not a folder"),
    "an empty folder": (empty_folder, {}, "is empty"),
    "pictures of a phone": (phone_pictures, {}, "none of a kind that is read (IMG_1.HEIC)"),
    "no metadata": (lambda good: (good.root / "metadata.jsonl").unlink(), {}, "no metadata.jsonl"),
    "empty metadata": (lambda good: (good.root / "metadata.jsonl").write_text("\n"), {}, "lists no picture"),
    "metadata in UTF-16": (lambda good: (good.root / "metadata.jsonl").write_text("{}", encoding="utf-16"), {}, "UTF-16"),
    "a line that is no JSON": (lambda good: good.raw(b'{"file_name": '), {}, "line 9: is not valid JSON"),
    "a line that is no object": (lambda good: good.raw(b"[1]"), {}, "line 9: is not a JSON object"),
    "a line in Latin-1": (lambda good: good.raw(b'{"file_name": "\xe9"}'), {}, "line 9: is not UTF-8"),
    "no file name": (lambda good: good.raw(b'{"base_text": "a", "target_text": "b"}'), {}, "no 'file_name'"),
    "no target text": (lambda good: good.raw(b'{"file_name": "0.png", "base_text": "a"}'), {}, "no 'target_text'"),
    "a number for a text": (lambda good: good.change(base_text=3), {}, "line 4, 3.png: 'base_text' is a number"),
    "an empty base text": (lambda good: good.change(base_text=" ,"), {}, "'base_text' says nothing"),
    "an empty target": (lambda good: good.change(target_text=""), {}, "'target_text' says nothing"),
    "target equals base": (lambda good: good.change(base_text="A winter hat."), {}, "equals 'base_text'"),
    "a text of 3,000 characters": (lambda good: good.change(base_text="a" * 3000), {}, "3,000 characters"),
    "a target beyond the model's window": (lambda good: good.change(target_text="zzqj " * 60), {}, "3.png: both texts need"),
    "NUL in a text": (lambda good: good.change(base_text="a\0"), {}, "NUL"),
    "half a character": (lambda good: good.change(base_text="\ud800"), {}, "half a character"),
    "a row twice": (lambda good: good.add("0.png", "a person, scene 0"), {}, "repeats line 1"),
    "bad repeats": (lambda good: good.change(repeats=0), {}, "'repeats' must be"),
    "a missing picture": (lambda good: (good.root / "3.png").unlink(), {}, "3.png: does not exist"),
    "another case": (lambda good: (good.root / "3.png").rename(good.root / "3.PNG"), {}, "there is '3.PNG'"),
    "a name that climbs out": (lambda good: good.add("../secret.png"), {}, "outside the folder"),
    "an absolute name": (lambda good: good.add("/etc/passwd"), {}, "outside the folder"),
    "a Windows share": (lambda good: good.add("\\\\host\\share\\a.png"), {}, "outside the folder"),
    "a link to outside": (lambda good: linked(good, good.root.parent), {}, "outside the folder"),
    "a link to itself": (lambda good: linked(good, "3.png"), {}, "3.png: "),
    "a pipe": (pipe, {}, "is not a file"),
    "no bytes": (lambda good: good.content(b""), {}, "is empty (0 bytes)"),
    "text": (lambda good: good.content(b"a picture of a hat"), {}, "is not a picture"),
    "a script in SVG": (lambda good: good.content(b"<svg><script>alert(1)</script></svg>"), {}, "is an SVG"),
    "a GIF": (lambda good: good.content(encoded("GIF")), {}, "is a GIF"),
    "a TIFF": (lambda good: good.content(encoded("TIFF")), {}, "is a TIFF"),
    "a truncated PNG": (lambda good: good.content(encoded("PNG")[:2000]), {}, "damaged or cut off"),
    "a truncated JPEG": (lambda good: good.content(encoded("JPEG")[:900]), {}, "damaged or cut off"),
    "a wrong suffix": (lambda good: good.content(encoded("JPEG")), {}, "holds a JPEG picture"),
    "one pixel": (lambda good: picture(0, (1, 1)).save(good.root / "3.png"), {}, "1x1 pixels"),
    "50,000 x 50,000 pixels": (lambda good: good.content(png_header(50_000, 50_000)), {}, "megapixels"),
    "captions and no target": (lambda good: good.captions(), {}, "name them with --target"),
    "a caption without the target": (lambda good: good.captions("a man"), HAT, "0.png: the caption 'a man' does not say"),
    "a caption that is only the target": (lambda good: good.captions("a winter hat"), HAT, "names only the target"),
    "an empty caption": (lambda good: good.captions(""), HAT, "0.png: has no caption"),
    "kohya without the target": (kohya("10_a turban", "a man in a turban"), {}, "does not say 'a turban'"),
    "kohya with no repeats": (kohya("0_a winter hat"), {}, "0 repeats"),
}


@pytest.fixture
def settings(tiny, tmp_path):
    def make(**more) -> config.TrainConfig:
        return config.train_config("tiny", {"model": "tiny", "data": str(tmp_path / "set"), "name": "hat", **more})

    return make


@pytest.fixture
def no_models(monkeypatch):
    """Whoever loads a model fails the test."""
    def refuse(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_backbone", refuse)
    monkeypatch.setattr(checkpoints, "load_backbone", refuse)


def test_there_are_forty():
    assert len(BAD) >= 40


@pytest.mark.parametrize("name", BAD)
def test_one_report_and_nothing_started(settings, no_models, spf_home, tmp_path, name):
    spoil, more, words = BAD[name]
    good = Set(tmp_path / "set")
    spoil(good)
    with pytest.raises(DataError) as caught:
        store.prepare(settings(**more))
    assert words in str(caught.value) and "dataset check" in str(caught.value)
    assert len(caught.value.problems) in (1, 7, 8), "every bad file once"
    assert store.runs() == [] and not list(spf_home.glob("customizations/*"))
    assert all(line.isprintable() for line in str(caught.value).splitlines())


def test_everything_that_is_wrong_is_in_the_one_report(settings, no_models, tmp_path):
    good = Set(tmp_path / "set")
    good.content(b"", "1.png")
    good.content(b"text", "2.png")
    good.change(base_text="")
    (good.root / "5.png").unlink()
    good.raw(b"{")
    with pytest.raises(DataError) as caught:
        store.prepare(settings())
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "line 2, 1.png", "line 3, 2.png", "line 4, 3.png", "line 6, 5.png", "line 9"]


def test_the_same_settings_after_the_set_was_corrected(settings, tmp_path):
    good = Set(tmp_path / "set")
    good.change(base_text="")
    with pytest.raises(DataError):
        store.prepare(settings())
    good.change(base_text="a person")
    assert store.prepare(settings()).config() == settings()
