"""The command line: exit status, one clear line for each bad input, and JSON that parses."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from spf import cli, config, library
from spf.training import preview

REPOSITORY = Path(__file__).resolve().parent.parent
BASE = "a person, with red hair"
FILES = ["customized.png", "maps.npz", "original.png", "result.json", "sfcm.png"]


@pytest.fixture
def spf(tiny, command_line, monkeypatch, tmp_path):
    """The command line where only the tiny model is known."""
    monkeypatch.setattr(library, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(preview, "PREVIEW_STEPS", 1)
    return command_line


def generate(spf, out: Path, *arguments: str, base: str = BASE):
    return spf("generate", "--model", "tiny", "--base", base, "--out", str(out), *arguments)


@pytest.mark.parametrize("arguments, field", [
    (("--base", ""), "base_text"),
    (("--base", " , "), "base_text"),
    (("--base", "a" * 100_000), "base_text"),
    (("--base", "zzqj " * 60), "base_text"),
    (("--target", ""), "target_texts"),
    (("--target", BASE), "target_texts"),
    (("--target", "a hat", "--target", "A hat"), "target_texts"),
    (("--target", "zzqj " * 60), "target_texts"),
    (("--negative-prompt", "zzqj " * 60), "negative_prompt"),
    (("--seed", "-1"), "seed"),
    (("--seed", str(2**64)), "seed"),
    (("--seed", "abc"), "seed"),
    (("--steps", "0"), "num_inference_steps"),
    (("--steps", "-1"), "num_inference_steps"),
    (("--steps", "1e9"), "num_inference_steps"),
    (("--steps", "nan"), "num_inference_steps"),
    (("--steps", "many"), "num_inference_steps"),
    (("--guidance-scale", "inf"), "guidance_scale"),
    (("--guidance-scale", "0.5"), "guidance_scale"),
    (("--guidance-scale", "x"), "guidance_scale"),
    (("--map-steps", "-3"), "map_steps"),
    (("--customization", "cap"), "customization"),
    (("--customization", "../cap"), "customization"),
    (("--customization", "cap:lots"), "customization"),
    (("--customization", "cap", "--customization", "cap:0.5"), "customization"),
    (("--model", "sdxl"), "model"),
    (("--model", "../tiny"), "model"),
    (("--device", "abacus"), "--device"),
    (("--device", "meta"), "--device"),
    (("--method", "magnet", "--set", "name=storm"), "--set"),
])
def test_bad_input_to_generate_is_one_line_and_status_2(spf, tmp_path, spf_home, arguments, field):
    status, out, err = generate(spf, tmp_path / "out", *arguments)
    assert (status, out) == (2, "")
    # the libraries may log to standard error while a model loads; what the user is told is the last line
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert lines == [err.splitlines()[-1]] and lines[0].startswith(f"error: {field}") and len(lines[0]) < 300
    assert not (tmp_path / "out").exists() and not spf_home.exists()


def test_generate_to_a_file_is_refused_before_anything_is_drawn(spf, tmp_path, monkeypatch):
    (tmp_path / "out").write_text("mine")
    from spf.generation.service import GenerationService

    monkeypatch.setattr(GenerationService, "generate", lambda *args: pytest.fail("drawn"))
    status, _, err = generate(spf, tmp_path / "out")
    assert status == 2 and "choose a folder" in err and (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("place", ["", " ", "FILE", "FILE/below", "/proc/gone", "FOLDER"])
@pytest.mark.parametrize("verb", [
    ("generate", "--model", "tiny", "--base", BASE, "--out"), ("dataset", "filter", "PICTURES", "--out"),
    ("dataset", "crop", "PICTURES", "--out"), ("dataset", "crop", "PICTURES", "--out", "squares", "--preview"),
    ("dataset", "render", "--attribute", "turban", "--out"), ("export", "hat", "--out"),
    ("dataset", "generate", "--model", "tiny", "--base-texts", "FILE", "--target", "a hat", "--out"),
    ("export", "hat", "--format", "lora", "--out"), ("pretrain", "score", "tiny", "--sheet")], ids=" ".join)
def test_a_place_that_cannot_be_written_is_refused_before_a_model_is_loaded(
        spf, tmp_path, spf_home, picture_folder, monkeypatch, verb, place):
    wants_a_file = verb[-1] in ("--preview", "--sheet")
    if place == ("FILE" if wants_a_file else "FOLDER"):
        pytest.skip("may be had")
    (tmp_path / "FILE").write_text("mine")
    (tmp_path / "FOLDER").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_device", lambda name: pytest.fail("a model would be loaded"))
    before = sorted(tmp_path.rglob("*"))
    status, out, err = spf(*(str(picture_folder) if word == "PICTURES" else word for word in verb), place)
    assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith("error: ") and len(err) < 300
    assert (verb[-1] if not place.strip() else place) in err
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "FILE").read_text() == "mine"


def test_an_unknown_customization_is_refused_before_a_model_is_loaded(spf, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_device", lambda name: pytest.fail("a model would be loaded"))
    status, out, err = generate(spf, tmp_path / "out", "--customization", "cap:0.5")
    assert (status, out) == (2, "") and err.startswith("error: customization: 'cap'") and not (tmp_path / "out").exists()


@pytest.mark.parametrize("gain, settings", [(None, None), ("0", None), ("0.0", None), ("2", {"gain": "2"}), ("", {"gain": ""})])
def test_a_hold_of_0_holds_nothing(gain, settings):
    assert cli._hold(gain) == settings


def test_generate_without_its_model_files_names_the_remedy(spf, tmp_path, tiny):
    path = config.CONFIGS / "models" / "tiny.yaml"
    path.write_text(path.read_text().replace(tiny.pretrained_model_name_or_path + "\n", str(tmp_path / "gone") + "\n"))
    status, _, err = generate(spf, tmp_path / "out")
    assert status == 2 and "gone" in err and "restore it" in err and not (tmp_path / "out").exists()


def test_generate_writes_its_files_and_reports_json(spf, tmp_path):
    status, out, _ = generate(spf, tmp_path / "out", "--target", "a winter hat", "--steps", "2", "--seed", "5", "--json")
    assert status == 0 and sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    report = json.loads(out)
    assert report == json.loads((tmp_path / "out" / "result.json").read_text())
    request = report["request"]
    assert (request["seed"], request["num_inference_steps"], request["guidance_scale"]) == (5, 2, 3.0)
    assert [target["text"] for target in report["targets"]] == ["a winter hat"]


def test_several_seeds_in_a_row_have_a_folder_each(spf, tmp_path):
    status, out, _ = generate(spf, tmp_path / "out", "--seed", "5", "--count", "2", "--scheduler", "dpmpp_2m", "--height", "48",
                              "--width", "64", "--steps", "1", "--map-steps", "0", "--json")
    assert status == 0 and [pair["request"]["seed"] for pair in json.loads(out)["pairs"]] == [5, 6]
    pictures = [Image.open(tmp_path / "out" / seed / "original.png") for seed in ("5", "6")]
    assert [picture.size for picture in pictures] == [(64, 48)] * 2 and pictures[0].tobytes() != pictures[1].tobytes()


def test_generate_says_where_it_wrote(spf, tmp_path):
    status, out, _ = generate(spf, tmp_path / "out", "--steps", "1", "--map-steps", "0")
    assert status == 0 and str(tmp_path / "out") in out and "original.png" in out


def train(spf, *arguments: str):
    return spf("train", "--model", "tiny", "--preset", "tiny", *arguments)


def test_train_teaches_and_generate_uses_it(spf, tmp_path, picture_folder, spf_home):
    status, out, _ = train(spf, "--data", str(picture_folder), "--name", "hat", "--set", "stage1.max_train_steps=1",
                           "--set", "stage2.max_train_steps=1", "--json")
    report = json.loads(out)
    assert status == 0 and report["customization"]["name"] == "hat"
    assert (spf_home / "runs" / report["run"] / "metrics.jsonl").read_text().count("\n") == 2
    status, out, _ = generate(spf, tmp_path / "out", "--customization", "hat", "--target", "a winter hat", "--steps", "1")
    assert status == 0
    status, out, _ = spf("doctor", "--json")
    assert json.loads(out)["customizations"] == ["hat"]


@pytest.mark.parametrize("arguments, words", [
    (("--name", "hat"), "data: is missing"),
    (("--data", "PICTURES"), "name: is missing"),
    (("--data", "PICTURES", "--name", "Winter Hat"), "name: may hold lower-case"),
    (("--data", "PICTURES", "--name", "hat", "--set", "stage2.learning_rate=fast"), "stage2.learning_rate: "),
    (("--data", "PICTURES", "--name", "hat", "--set", "stage3.x=1"), "stage3: is not a known setting"),
    (("--data", "PICTURES", "--name", "hat", "--set", "fast"), "--set: "),
    (("--data", "PICTURES", "--name", "hat", "--stage", "3"), "stage: "),
    (("--data", "PICTURES", "--name", "hat", "--preset", "slow"), "preset: 'slow'"),
    (("--data", "PICTURES", "--name", "hat", "--model", "sdxl"), "model: 'sdxl'"),
    (("--data", "PICTURES", "--name", "hat", "--device", "abacus"), "--device: "),
    (("--data", "/nowhere/at/all", "--name", "hat"), "/nowhere/at/all"),
    (("--data", "PICTURES", "--name", "hat", "--initial-customization", "cap+gone:0.5"), "customization: 'cap' does not exist"),
    (("--data", "PICTURES", "--name", "hat", "--detach", "--initial-customization", "cap"), "'cap' does not exist"),
    (("--data", "EMPTY", "--name", "hat"), "is empty"),
])
def test_bad_input_to_train_is_status_2_and_leaves_nothing(spf, picture_folder, tmp_path, spf_home, arguments, words):
    (tmp_path / "empty").mkdir()
    places = {"PICTURES": str(picture_folder), "EMPTY": str(tmp_path / "empty")}
    status, out, err = train(spf, *(places.get(argument, argument) for argument in arguments))
    assert (status, out) == (2, "") and err.startswith("error: ") and words in err
    assert not spf_home.exists()


def test_a_run_that_is_cancelled_is_status_1(spf, picture_folder, spf_home, monkeypatch):
    monkeypatch.setattr("spf.training.run_folder.RunFolder.requests", lambda self: ("cancel",))
    status, out, err = train(spf, "--data", str(picture_folder), "--name", "hat")
    assert (status, out) == (1, "") and err.splitlines()[-1] == "error: Training was cancelled."
    assert not (spf_home / "customizations").exists()


def test_a_prepared_run_is_carried_out(spf, picture_folder, spf_home):
    from spf.jobs import store

    folder = store.prepare(config.train_config("tiny", {
        "data": str(picture_folder), "name": "hat", "stage": "1", "stage1.max_train_steps": 1}))
    status, out, _ = spf("train", "--run", str(folder.path))
    assert status == 0 and "'hat' is written" in out and store.status(folder).state == "completed"
    status, _, err = spf("train", "--run", str(spf_home / "runs" / "gone"))
    assert status == 2 and "gone" in err


def test_a_run_is_listed_paused_resumed_and_refused(spf, picture_folder, spf_home, monkeypatch):
    assert spf("jobs") == (0, "No runs yet.\n", "") and not spf_home.exists()
    monkeypatch.setattr("spf.training.run_folder.RunFolder.requests", lambda self: ("pause",))
    status, _, err = train(spf, "--data", str(picture_folder), "--name", "hat", "--stage", "1")
    assert status == 1 and "paused after step 0; resume it to go on" in err.splitlines()[-1]
    status, out, _ = spf("jobs", "--json")
    (row,) = json.loads(out)["jobs"]
    assert status == 0 and (row["state"], row["exit_code"], row["total_steps"]) == ("paused", 1, 2)
    for arguments, words in ((("cancel", row["run"]), "is paused; nothing is under way"),
                             (("jobs", "save", row["run"]), "is paused")):
        status, _, err = spf(*arguments)
        assert status == 1 and words in err
    status, _, err = spf("train", "--resume", row["run"], "--set", "seed=5")
    assert status == 2 and "seed was 0, now it is 5" in err


@pytest.mark.parametrize("run", ["gone", "../../etc", "", "läuft"])
@pytest.mark.parametrize("verb", [("cancel",), ("resume",), ("jobs", "pause"), ("jobs", "save"), ("jobs", "sample"),
                                  ("jobs", "log"), ("train", "--resume"), ("train", "--detach", "--resume")])
def test_a_run_that_is_not_there_is_bad_input_to_every_verb(spf, spf_home, verb, run):
    status, out, err = spf(*verb, run)
    assert (status, out) == (2, "") and not spf_home.exists()
    named = Path(run).name if "resume" in verb[-1] else run
    assert err == f"error: run: '{named}' does not exist; choose one of those that 'python -m spf jobs' lists\n"


@pytest.mark.parametrize("option", [("--dry-run",), ("--preset", "paper")])
def test_what_a_resumed_run_would_pass_over_is_refused(spf, spf_home, option):
    status, out, err = spf("train", "--resume", "20260101-000000-hat", *option)
    assert (status, out) == (2, "") and err.startswith(f"error: {option[0]}: does not go with --resume") and not spf_home.exists()


def test_captions_are_split_by_the_target_that_train_is_given(spf, picture_folder, tmp_path, monkeypatch):
    """The same option as of 'dataset check', which is what the report names."""
    (captioned := tmp_path / "captioned").mkdir()
    for picture in picture_folder.glob("*.png"):
        (captioned / picture.name).write_bytes(picture.read_bytes())
        (captioned / picture.name).with_suffix(".txt").write_text("a person in a winter hat, at sea")
    status, _, err = train(spf, "--data", str(captioned), "--name", "hat", "--stage", "1")
    assert status == 2 and "name them with --target" in err
    status, out, _ = train(spf, "--data", str(captioned), "--name", "hat", "--stage", "1", "--target", "a winter hat", "--json")
    assert status == 0 and json.loads(out)["customization"]["phrases"] == ["a winter hat"]


def test_a_dry_run_measures_and_writes_nothing(spf, picture_folder, spf_home):
    status, out, _ = train(spf, "--data", str(picture_folder), "--name", "hat", "--stage", "1", "--dry-run", "--json")
    report = json.loads(out)
    assert status == 0 and not (spf_home / "runs").exists() and report["config"]["name"] == "hat"
    (stage,) = report["estimate"]["stages"]
    assert (stage["steps"], stage["global_batch"]) == (2, 2) and stage["seconds_per_step"] > 0
    assert report["estimate"]["peak_memory_gb"] > 0 and report["estimate"]["pictures"] == 4


@pytest.mark.parametrize("way", [(), ("--detach",), ("--dry-run",)])
@pytest.mark.parametrize("setting, words", [
    (("--report-to", "tensorboard"),
     "report_to: the package 'tensorboard' is not installed; run 'pip install tensorboard', or choose 'none'"),
    (("--set", "early_stop_patience=3"), "early_stop_patience: needs pictures to validate on, and of 4")])
def test_a_setting_that_cannot_work_is_refused_in_one_sentence(spf, picture_folder, spf_home, monkeypatch, way, setting, words):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else found(name, *rest))
    status, out, err = train(spf, "--data", str(picture_folder), "--name", "hat", *setting, *way)
    assert (status, out) == (2, "") and err.splitlines()[-1].startswith(f"error: {words}")
    assert not (spf_home / "runs").exists()


def test_dataset_render_then_check(spf, tmp_path):
    status, out, _ = spf("dataset", "render", "--attribute", "turban", "--count", "2", "--out", str(tmp_path / "set"))
    assert status == 0 and "2 pictures of 'turban'" in out
    status, out, _ = spf("dataset", "check", str(tmp_path / "set"), "--model", "tiny", "--json")
    report = json.loads(out)
    assert status == 0 and report["ok"] and report["pictures"] == 2 and report["targets"] == {"a turban": 2}


@pytest.mark.parametrize("arguments, words", [
    (("--attribute", "moustache"), "winter-hat"), (("--attribute", "turban", "--count", "0"), "between 1 and"),
    (("--attribute", "turban", "--count", "1000000000"), "between 1 and")])
def test_bad_input_to_render(spf, tmp_path, arguments, words):
    status, _, err = spf("dataset", "render", "--out", str(tmp_path / "set"), *arguments)
    assert status == 2 and err.startswith("error: ") and words in err and err.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_a_bad_folder_fails_the_check_in_text_and_json(spf, tmp_path):
    (tmp_path / "empty").mkdir()
    status, out, _ = spf("dataset", "check", str(tmp_path / "empty"), "--model", "tiny")
    assert status == 2 and "is empty" in out and "metadata.jsonl" in out
    status, out, _ = spf("dataset", "check", str(tmp_path / "empty"), "--model", "tiny", "--json")
    assert status == 2 and json.loads(out)["problems"][0]["kind"] == "empty-folder"


@pytest.mark.parametrize("arguments, words", [
    (("pretrain", "sdxl"), "preset: 'sdxl'"),
    (("pretrain", "score"), "preset: 'score'"), (("pretrain", "a", "b", "c"), "pretrain: takes a preset"),
    (("pretrain", "score", "sdxl"), "model: 'sdxl'"),
    (("pretrain", "pocket", "--minutes", "-1"), "--minutes: "), (("pretrain", "pocket", "--minutes", "nan"), "--minutes: ")])
def test_bad_input_to_pretrain(spf, spf_home, arguments, words):
    status, _, err = spf(*arguments)
    assert status == 2 and words in err and not spf_home.exists()


def test_doctor_reports_what_there_is(spf, tiny):
    status, out, _ = spf("doctor", "--json")
    report = json.loads(out)
    assert report["models"] == {"tiny": "found"} and report["packages"]["torch"].startswith("2.")
    assert status == (1 if report["problems"] else 0)
    status, out, _ = spf("doctor")
    assert "Models:" in out and "Python  " in out and "{" not in out


@pytest.mark.parametrize("key", ["pretrained_model_name_or_path", "clip"])
def test_doctor_works_without_models_and_says_how_to_get_them(spf, tmp_path, key):
    path = config.CONFIGS / "models" / "tiny.yaml"
    lines = [f"{key}: {tmp_path / 'gone'}" if line.startswith(f"{key}:") else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    status, out, _ = spf("doctor", "--json")
    report = json.loads(out)
    assert status == 1 and report["models"] == {"tiny": "missing"}
    assert any("gone" in problem and "restore it" in problem for problem in report["problems"])


@pytest.mark.parametrize("verb", [(), ("generate",), ("train",), ("dataset",), ("dataset", "render"), ("dataset", "check"),
                                  ("pretrain",), ("doctor",), ("jobs",), ("jobs", "pause"), ("cancel",), ("resume",)])
def test_every_verb_has_help(spf, verb):
    status, out, _ = spf(*verb, "--help")
    assert status == 0 and "Usage" in out and len(out) > 150


@pytest.mark.parametrize("arguments, words", [
    (("paint",), "no such command 'paint'"), (("generate", "--out", "x"), "missing option '--base'"),
    (("generate", "--colour", "x"), "no such option: --colour"), (("jobs", "log", "x", "--lines", "0"), "'--lines'"),
    (("dataset", "render", "--attribute", "turban", "--out", "x", "--count", "many"), "'--count'"),
    (("cancel",), "argument 'run'")])
def test_a_wrong_command_is_one_line_that_names_the_help(spf, arguments, words):
    status, out, err = spf(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith("error: ") and words in err
    assert "see 'python -m spf" in err and err.endswith("--help'\n")


@pytest.mark.parametrize("verb", [(), ("dataset",)])
def test_no_verb_shows_the_help(spf, verb):
    status, out, err = spf(*verb)
    assert (status, out) == (2, "") and "Usage: python -m spf" in err and "error" not in err


@pytest.mark.parametrize("raised, status, told", [
    (KeyboardInterrupt(), 130, "error: stopped.\n"),
    (OSError(36, "File name too long", "/data"), 2, "error: /data cannot be read or written (File name too long)"),
    (PermissionError(13, "Permission denied", "/data"), 1, "error: /data cannot be read or written (Permission denied)")])
def test_what_stops_a_verb_is_told_in_one_line(spf, monkeypatch, raised, status, told):
    def stop():
        raise raised

    monkeypatch.setattr("spf.jobs.store.runs", stop)
    ended, out, err = spf("jobs")
    assert (ended, out, err.count("\n")) == (status, "", 1) and err.startswith(told)


def test_a_name_that_the_terminal_cannot_show_is_escaped(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "ascii:strict"}
    arguments = ("dataset", "render", "--attribute", "turban", "--count", "1", "--out", "ü")
    done = subprocess.run([sys.executable, "-m", "spf", *arguments], cwd=tmp_path, env=env,
                          capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 pictures of 'turban' are written to \\xfc.\n", "")


@pytest.mark.parametrize("arguments, words", [
    (("--set", "preset=gone"), "preset: 'gone' is not known"), (("--set", "triples=1e9"), "triples: ")])
def test_bad_input_to_evaluate_is_told_before_anything_is_made(command_line, spf_home, arguments, words):
    status, out, err = command_line("evaluate", str(REPOSITORY / "configs" / "evaluation" / "smoke.yaml"), *arguments)
    assert (status, out) == (2, "") and err.startswith(f"error: {words}") and err.count("\n") == 1 and not spf_home.exists()


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_one_process_where_a_launcher_was_asked_for_several_is_refused(spf, picture_folder, spf_home, monkeypatch, verb):
    """What `accelerate launch --cpu --num_processes 2` starts."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    status, out, err = (train(spf, "--data", str(picture_folder), "--name", "hat") if verb == "train" else
                        spf("evaluate", str(REPOSITORY / "configs" / "evaluation" / "smoke.yaml"), "--set", "preset=tiny"))
    assert (status, out) == (2, "") and "torchrun --nproc_per_node N" in err and not list(spf_home.glob("*/*"))


@pytest.mark.parametrize("verb", [
    ("evaluate", str(REPOSITORY / "configs" / "evaluation" / "smoke.yaml")), ("pretrain", "pocket")])
def test_a_data_folder_that_cannot_be_written_is_told_before_the_work(command_line, monkeypatch, verb):
    monkeypatch.setenv("SPF_HOME", "/proc/gone")
    monkeypatch.setattr(cli, "_device", lambda name: pytest.fail("a model would be loaded"))
    status, out, err = command_line(*verb)
    assert (status, out) == (2, "") and err.startswith("error: SPF_HOME: /proc/gone/") and err.count("\n") == 1


def test_the_exit_status_reaches_the_shell(tmp_path):
    """A real process; it must find the bad text before it imports anything heavy."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SPF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "spf", "generate", "--base", " ", "--out", "out"], cwd=tmp_path, env=env,
        capture_output=True, text=True, timeout=300)
    timings = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2 and done.stdout == ""
    assert len(told) == 1 and told[0].startswith("error: base_text: ")
    assert not any(line.split("|")[-1].strip() == "torch" for line in timings)
    assert list(tmp_path.iterdir()) == []
