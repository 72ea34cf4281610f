"""The verbs under `dataset`: exit status, one clear line for bad input, and nothing written by a refused call."""

import json
import sys

import pytest

from spf import cli
from spf.data.records import read_folder
from spf.pocket.dataset import render_folder


@pytest.fixture
def dataset(tiny, monkeypatch, capsys):
    """dataset("check", ...): (exit status, standard output, standard error)."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spf", "dataset", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def captioned(picture_folder, tmp_path):
    """The pictures of `picture_folder` with a caption file each."""
    folder = tmp_path / "captioned"
    folder.mkdir()
    for record in read_folder(picture_folder):
        (folder / record.path.name).write_bytes(record.path.read_bytes())
        (folder / record.path.name).with_suffix(".txt").write_text(f"{record.base_text}, wearing a winter hat")
    return folder


@pytest.mark.parametrize("arguments", [
    ("check", "gone"), ("generate", "--base-texts", "gone", "--target", "a hat", "--out", "set"),
    ("generate", "--base-texts", "FOLDER", "--target", "a hat", "--out", "set"),
    ("generate", "--base-texts", "texts", "--target", "", "--out", "set"),
    ("generate", "--base-texts", "texts", "--target", "a hat", "--seed", "-1", "--out", "set"),
    ("filter", "gone", "--out", "set"), ("crop", "gone", "--out", "set"), ("caption", "gone", "--captioner", "x")])
def test_nonsense_is_refused_before_libraries_are_loaded(dataset, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "texts").write_text("a person\n")
    for module in ("spf.backbones.window", "spf.generation.source", "spf.clip", "spf.data.cropping", "spf.backbones.captioner"):
        monkeypatch.setitem(sys.modules, module, None)  # an import of it now fails
    model = ("--model", "tiny") if arguments[0] in ("check", "generate") else ()
    status, out, err = dataset(*arguments, *model)
    assert status == 2 and (out if arguments[0] == "check" else err.startswith("error: ")) and not (tmp_path / "set").exists()


def test_the_same_command_twice_writes_the_same_set(dataset, tmp_path):
    arguments = ("render", "--attribute", "turban", "--count", "2", "--out", tmp_path / "set", "--masks")
    assert dataset(*arguments)[0] == 0
    (tmp_path / "set" / ".masks.partial").mkdir()  # of a command that was killed
    assert dataset(*arguments)[0] == 0
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["00000.png", "00001.png", "masks", "metadata.jsonl"]
    (tmp_path / "set" / "masks" / "mine.png").touch()
    status, _, err = dataset(*arguments)
    assert status == 2 and "already holds other files (masks" in err and (tmp_path / "set" / "masks" / "mine.png").exists()


def test_check_tells_what_is_there(dataset, picture_folder):
    status, out, _ = dataset("check", picture_folder, "--model", "tiny", "--json")
    assert status == 0 and json.loads(out)["layout"] == "metadata" and json.loads(out)["pictures"] == 4


def test_check_splits_captions_by_the_target(dataset, captioned):
    status, out, _ = dataset("check", captioned, "--model", "tiny")
    assert status == 2 and "--target" in out
    assert dataset("check", captioned, "--model", "tiny", "--target", "a winter hat")[0] == 0
    status, out, _ = dataset("check", captioned, "--model", "", "--target", "a turban")
    assert status == 2 and out.count("does not say 'a turban'") == 4


def test_check_asks_the_models_tokenizer(dataset, tmp_path, captioned):
    (captioned / "00002.txt").write_text("a winter hat, " + "zzqj " * 60)
    arguments = ("check", captioned, "--target", "a winter hat")
    status, out, _ = dataset(*arguments, "--model", "tiny")
    assert status == 2 and "00002.png: both texts need" in out
    assert dataset(*arguments, "--model", "")[0] == 0
    status, out, err = dataset(*arguments, "--model", "sdxl")
    assert (status, out) == (2, "") and err.startswith("error: model: 'sdxl'")


def test_filter_keeps_the_share(dataset, tiny, tmp_path):
    folder = render_folder("winter-hat", 10, tmp_path / "all", size=64)
    status, out, _ = dataset("filter", folder, "--out", tmp_path / "best", "--keep", "0.3", "--clip", tiny.clip, "--json")
    found = json.loads(out[out.index("{"):])
    assert status == 0 and found["kept"] == len(read_folder(tmp_path / "best")) == 3


@pytest.mark.parametrize("arguments, words", [
    (("--keep", "0"), "--keep"), (("--keep", "nan"), "--keep"), (("--minimum", "hps"), "--minimum: 'hps' is not"),
    (("--minimum", "hps=x"), "--minimum"), (("--minimum", "beauty=1"), "--minimum: 'beauty'"),
    (("--minimum", "hps=0.2"), "HPSv2: "), (("--minimum", "image_reward=0"), "ImageReward: "),
    (("--clip", "nowhere"), "clip: "), (("--device", "abacus"), "--device")])
def test_bad_input_to_filter(dataset, tiny, picture_folder, tmp_path, arguments, words):
    clip = () if "--clip" in arguments else ("--clip", tiny.clip)
    status, out, err = dataset("filter", picture_folder, "--out", tmp_path / "best", *clip, *arguments)
    last = err.splitlines()[-1]
    assert (status, out) == (2, "") and last.startswith(f"error: {words}") and not (tmp_path / "best").exists()


def test_generate_draws_a_set(dataset, tmp_path):
    (tmp_path / "texts.txt").write_text("a person, with red hair\na person, smiling\n")
    status, out, _ = dataset(
        "generate", "--model", "tiny", "--base-texts", tmp_path / "texts.txt", "--target", "a hat", "--out", tmp_path / "set")
    assert status == 0 and out.startswith("2 pictures") and len(read_folder(tmp_path / "set")) == 2


@pytest.mark.parametrize("arguments, words", [
    (("--target", ""), "target_texts"), (("--customization", "cap"), "customization"), (("--model", "sdxl"), "model"),
    (("--base-texts", "nowhere.txt"), "--base-texts")])
def test_bad_input_to_generate(dataset, tmp_path, arguments, words):
    (tmp_path / "texts.txt").write_text("a person\n")
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    options = {"--model": "tiny", "--base-texts": tmp_path / "texts.txt", "--target": "a hat", "--out": tmp_path / "set"} | given
    status, out, err = dataset("generate", *(text for option in options.items() for text in option))
    assert (status, out) == (2, "") and err.splitlines()[-1].startswith(f"error: {words}") and not (tmp_path / "set").exists()
