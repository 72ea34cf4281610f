"""Results on disk, and PNGs of unknown origin."""

import json
import re
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from spf.config import GenerationRequest, HoldConfig, parse
from spf.errors import InvalidInput
from spf.generation.history import check_target, describe, infotext, read_request, read_result, save_result, write_result
from spf.generation.request import GenerationResult, StepMaps
from spf.method.emphasis import weighted_prompt, write_emphasis
from spf.method.phrases import join_prompt

FILES = ["customized.png", "maps.npz", "original.png", "result.json", "sfcm.png"]


def make_result(maps: int = 2, **values) -> GenerationResult:
    request = parse(GenerationRequest, {"base_text": "a person, with red hair", "target_texts": ["a hat"], "seed": 7, **values})
    prompt = join_prompt(request.base_text, request.target_texts)
    rng = np.random.default_rng(0)
    steps = [StepMaps(step, 900 - step, *(rng.random(shape, np.float32) for shape in (
        (4, 4), (4, 4), (len(prompt.phrases), 4, 4), (len(prompt.targets), 4, 4)))) for step in range(maps)]
    pictures = [Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in range(2)]
    return GenerationResult(request, *pictures, prompt, rng.random(len(prompt.phrases)), steps, {"x": 0.5}, {"maps": 0.1})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_result_becomes_five_files(tmp_path):
    result = make_result()
    folder = write_result(result, tmp_path / "deep" / "out")
    assert names(folder) == FILES and names(tmp_path / "deep") == ["out"]
    assert Image.open(folder / "original.png").convert("RGB").tobytes() == result.original.tobytes()
    assert Image.open(folder / "customized.png").convert("RGB").tobytes() == result.customized.tobytes()
    assert Image.open(folder / "sfcm.png").size == (16, 16)
    with np.load(folder / "maps.npz") as maps:
        assert {name: maps[name].shape for name in maps} == {
            "steps": (2,), "timesteps": (2,), "soft_map": (2, 4, 4), "sfcm": (2, 4, 4), "phrase_maps": (2, 2, 4, 4),
            "target_maps": (2, 1, 4, 4), "gamma": (2,)}
        assert maps["timesteps"].tolist() == [900, 899]
        np.testing.assert_array_equal(maps["sfcm"][1], result.maps[1].sfcm)


def test_result_json_names_settings_phrases_and_spans(tmp_path):
    result = make_result()
    saved = json.loads((write_result(result, tmp_path / "out") / "result.json").read_text())
    assert saved == json.loads(json.dumps(describe(result)))
    assert parse(GenerationRequest, saved["request"]) == result.request
    for phrase in [*saved["phrases"], *saved["targets"]]:
        assert saved["prompt"][phrase["start"]:phrase["end"]] == phrase["text"]
    assert [phrase["gamma"] for phrase in saved["phrases"]] == [round(g, 4) for g in result.gamma]
    assert saved["metrics"] == {"x": 0.5} and saved["map_timesteps"] == [900, 899]


def test_without_maps_there_are_three_files(tmp_path):
    assert names(write_result(make_result(maps=0), tmp_path / "out")) == ["customized.png", "original.png", "result.json"]


def test_a_folder_of_the_users_keeps_what_is_not_ours_and_no_stale_maps(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write_result(make_result(), tmp_path)
    second = make_result(maps=0, seed=8)
    write_result(second, tmp_path)
    assert names(tmp_path) == ["customized.png", "notes.txt", "original.png", "result.json"]
    assert read_request(tmp_path / "original.png") == second.request


def test_the_current_folder_is_a_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_result(make_result(), Path("."))
    assert names(tmp_path / "here") == FILES and names(tmp_path) == ["here"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    for look in (check_target, lambda target: write_result(make_result(), target)):
        with pytest.raises(InvalidInput, match="out.*is a file; choose a folder"):
            look(tmp_path / "out")
    assert names(tmp_path) == ["out"] and (tmp_path / "out").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_named_and_left_clean(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="cannot be written.*choose another folder"):
        write_result(make_result(), tmp_path / "file" / "out")
    assert names(tmp_path) == ["file"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    first = make_result()
    write_result(first, tmp_path / "out")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(InvalidInput, match="No space left"):
        write_result(make_result(seed=9), tmp_path / "out")
    assert names(tmp_path) == ["out"] and read_request(tmp_path / "out" / "original.png") == first.request


def test_results_of_one_second_get_folders_of_their_own(tmp_path):
    folders = {save_result(make_result(maps=0), tmp_path) for _ in range(3)}
    assert len(folders) == 3 and all(folder.name.split("-")[1] == "7" for folder in folders)
    assert all(len(names(folder)) == 3 for folder in folders)


# what a PNG carries

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(lambda text: f"a {text} z")
reused = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@reused
@given(base=TEXT, negative=TEXT, seed=st.integers(0, 2**63 - 1), guidance=st.floats(1, 30))
def test_every_request_comes_back_from_its_picture(tmp_path, base, negative, seed, guidance):
    result = make_result(0, base_text=base, negative_prompt=negative, seed=seed, guidance_scale=guidance, customization="hat.v2")
    folder = write_result(result, tmp_path / "out")
    assert read_request(folder / "customized.png") == result.request
    assert read_request((folder / "original.png").read_bytes()) == result.request


PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # as other tools read the last line


@reused
@given(base=TEXT, negative=TEXT)
def test_other_tools_can_read_the_infotext(tmp_path, base, negative):
    result = make_result(0, base_text=base, negative_prompt=negative, num_inference_steps=12, guidance_scale=4.5)
    folder = write_result(result, tmp_path / "out")
    text = Image.open(folder / "customized.png").text["parameters"]
    assert text == infotext(result)
    prompt, negative_line, settings_line = text.split("\n")
    assert prompt == write_emphasis(result.prompt.text, ())
    assert negative_line == f"Negative prompt: {result.request.negative_prompt}"
    values = {key: value.strip('"') for key, value in PAIR.findall(settings_line)}
    assert {key: values[key] for key in ("Steps", "CFG scale", "Seed", "Size", "Sampler", "Customization")} == {
        "Steps": "12", "CFG scale": "4.5", "Seed": "7", "Size": "16x16", "Sampler": "DDIM", "Customization": "none"}


def png_with(**chunks: str) -> bytes:
    info = PngInfo()
    for key, value in chunks.items():
        info.add_itxt(key, value)
    stream = BytesIO()
    Image.new("RGB", (4, 4)).save(stream, format="PNG", pnginfo=info)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


def raw_png(width: int, height: int, *chunks: bytes) -> bytes:
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


GOOD = '{"request": {"base_text": "a person"}}'
HOSTILE = {
    "no picture": b"hello",
    "empty": b"",
    "a GIF": b"GIF89a" + bytes(100),
    "cut off": png_with(spf=GOOD)[:60],
    "no pixels at all": raw_png(4, 4),
    "gigantic": raw_png(60_000, 60_000, chunk(b"IDAT", zlib.compress(bytes(1000)))),
    "large": raw_png(10_000, 10_000, chunk(b"IDAT", zlib.compress(bytes(1000)))),
    "a text that unpacks to 100 MB": raw_png(4, 4, chunk(b"zTXt", b"spf\0\0" + zlib.compress(bytes(100_000_000)))),
    "a broken packed text": raw_png(4, 4, chunk(b"zTXt", b"spf\0\0" + b"nonsense")),
    "no settings": png_with(parameters="a person"),
    "not JSON": png_with(spf="{"),
    "another JSON": png_with(spf="[1]"),
    "no request": png_with(spf='{"version": "1"}'),
    "a request that is a list": png_with(spf='{"request": [1]}'),
    "a request that is a text": png_with(spf='{"request": "seed"}'),
    "deep nesting": png_with(spf="[" * 200_000),
    "a huge number": png_with(spf='{"request": {"base_text": "a", "seed": ' + "9" * 5000 + "}}"),
    "an unknown setting": png_with(spf='{"request": {"base_text": "a", "path": "/etc/passwd"}}'),
    "a path for a name": png_with(spf='{"request": {"base_text": "a", "customization": "../../etc"}}'),
    "no number": png_with(spf='{"request": {"base_text": "a", "seed": NaN}}'),
    "half a character": png_with(spf='{"request": {"base_text": "\\ud800"}}'),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pictures_are_refused_in_one_line(kind):
    with pytest.raises(InvalidInput) as caught:
        read_request(HOSTILE[kind])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_a_small_good_one_is_read():
    assert read_request(png_with(spf=GOOD)).base_text == "a person"


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="picture"):
        read_request(tmp_path / "gone.png")


def test_a_result_is_read_back_as_it_was(tmp_path):
    result = make_result()
    again = read_result(write_result(result, tmp_path / "out"))
    assert again.request == result.request and again.prompt == result.prompt and again.metrics == result.metrics
    assert again.customized.tobytes() == result.customized.tobytes()
    assert [maps.step for maps in again.maps] == [maps.step for maps in result.maps]
    for one, other in zip(again.maps, result.maps, strict=True):
        assert np.array_equal(one.phrase_maps, other.phrase_maps) and np.array_equal(one.sfcm, other.sfcm)
    assert np.allclose(again.gamma, result.gamma, atol=1e-4)


def test_a_result_from_before_holding_had_more_settings_drew_without_them(tmp_path):
    folder = write_result(make_result(hold={"gain": 3.0}), tmp_path / "out")
    assert read_result(folder).request.hold.start == HoldConfig().start > 0
    path = folder / "result.json"
    values = json.loads(path.read_text())
    for setting in ("floor", "heal"):
        del values["request"]["hold"][setting]
    path.write_text(json.dumps(values))
    assert read_result(folder).request.hold == HoldConfig(gain=3.0, floor=0, heal=1)
    del values["request"]["hold"]["start"]
    path.write_text(json.dumps(values))
    assert read_result(folder).request.hold == HoldConfig(gain=3.0, start=0, floor=0, heal=1)


@pytest.mark.parametrize("damage", [
    lambda folder: (folder / "result.json").unlink(), lambda folder: (folder / "result.json").write_text("{}"),
    lambda folder: (folder / "result.json").write_text("[1"), lambda folder: (folder / "original.png").write_bytes(b"no"),
    lambda folder: (folder / "maps.npz").write_bytes(b"PK no"), lambda folder: np.savez(folder / "maps.npz", steps=[1])])
def test_a_damaged_result_names_its_folder(tmp_path, damage):
    folder = write_result(make_result(), tmp_path / "out")
    damage(folder)
    with pytest.raises(InvalidInput, match=f"result: {folder}"):
        read_result(folder)


def test_weights_are_in_the_text_for_other_tools():
    result = make_result()
    request = result.request.model_copy(update={"target_weights": (1.3,)})
    assert ":1.3)" in infotext(replace(result, request=request)).splitlines()[0]


def test_weights_and_scheduler_are_written_and_read_back(tmp_path):
    prompt = weighted_prompt("a person, with (red hair:1.5)", ["a hat"])
    result = replace(make_result(), prompt=prompt, scheduler="dpmpp_2m")
    lines = infotext(result).splitlines()
    assert lines[0] == "a person, with (red hair:1.5), a hat" and "Sampler: DPM++ 2M," in lines[-1]
    again = read_result(write_result(result, tmp_path / "out"))
    assert again.prompt == prompt and again.scheduler == "dpmpp_2m"
