import subprocess
from pathlib import Path

import pytest

from spf.backbones import checkpoints
from spf.config import EvaluatedMethod, home
from spf.errors import CustomizationError, InvalidInput, TrainingError
from spf.evaluation import trained
from spf.library import CustomizationCard, customizations


def test_a_row_is_trained_once_and_what_it_starts_from_before_it(make, trainer):
    evaluation = make()
    found = evaluation.trainer.customization("spf", "winter-hat")
    assert [values["stage"] for values in trainer.calls] == ["1", "2"]
    assert trainer.calls[1]["initial_customization"] == trainer.calls[0]["name"]
    assert "initial_customization" not in trainer.calls[0]
    assert make().trainer.customization("spf", "winter-hat").folder == found.folder and len(trainer.calls) == 2


def test_nobody_watches_a_training_but_for_one_that_stops_early(make, trainer):
    row = {"title": "S", "train": {"stage": "1", "early_stop_patience": 2, "validate_every": 7}}
    make().trainer.customization("standard", "winter-hat")
    make(methods={"standard": row}, tables={}).trainer.customization("standard", "winter-hat")
    assert [values["sample_every"] for values in trainer.calls] == [0, 0]
    assert trainer.calls[0]["validate_every"] > 1000 and trainer.calls[1]["validate_every"] == 7


def test_settings_of_every_row_are_its_own_where_it_says_nothing_else(make, trainer):
    every = {"mixed_precision": "bf16", "stage1.train_batch_size": 3}
    rows = {"standard": {"title": "S", "train": {"stage": "1", "stage1.train_batch_size": 5}},
            "spf": {"title": "Ours", "start": "standard", "train": {"stage": "2"}}}
    made = make(train=every, methods=rows, tables={}).trainer
    made.customization("spf", "winter-hat")
    assert [values["mixed_precision"] for values in trainer.calls] == ["bf16", "bf16"]
    assert [values["stage1.train_batch_size"] for values in trainer.calls] == [5, 3]
    assert made.key("standard", "winter-hat") != make(methods=rows, tables={}).trainer.key("standard", "winter-hat")


def test_training_pictures_are_those_of_the_target_and_shared_by_all_rows(make, trainer):
    make().trainer.customization("spf", "winter-hat")
    folders = {Path(values["data"]) for values in trainer.calls}
    assert len(folders) == 1 and len(list(folders.pop().glob("*.png"))) == 8


def test_several_targets_are_taught_from_all_their_pictures(make, trainer):
    make(pictures=2).trainer.customization("standard", "winter-hat+turban")
    lines = (Path(trainer.calls[0]["data"]) / "metadata.jsonl").read_text().splitlines()
    assert [("winter hat" in line, "turban" in line) for line in lines] == [(True, False)] * 2 + [(False, True)] * 2


def test_nothing_of_an_evaluation_enters_the_users_library(make):
    found = make().trainer.customization("spf", "winter-hat")
    assert found.folder.is_relative_to(home() / "evaluation" / "check") and found.card.name not in customizations()


def test_the_key_changes_with_everything_that_weights_depend_on(make):
    def key(row="spf", target="winter-hat", method=None, **changes):
        return make(**changes).trainer.key(row, target, method)

    more = EvaluatedMethod(title="x", start="standard", train={"stage": "2", "method.use_sfcm": False})
    keys = [key(), key("standard"), key(target="turban"), key(pictures=9), key(seed=1), key(method=more)]
    assert len(set(keys)) == len(keys) and key() == key(triples=9, batch_size=1)
    changed = {"standard": {"title": "Standard", "train": {"stage": "1", "stage1.learning_rate": 0.5}},
               "spf": {"title": "Ours", "start": "standard", "train": {"stage": "2"}}}
    assert key(methods=changed) != key(), "other weights to start from"


def test_a_row_without_training_samples_with_the_weights_it_starts_from(make, trainer):
    rows = {"standard": {"title": "S", "train": {"stage": "1"}}, "magnet": {"title": "M", "start": "standard"},
            "none": {"title": "N"}}
    made = make(methods=rows, tables={}).trainer
    assert made.customization("magnet", "winter-hat").folder == made.customization("standard", "winter-hat").folder
    assert made.key("magnet", "winter-hat") == made.key("standard", "winter-hat") and len(trainer.calls) == 1
    assert made.customization("none", "winter-hat") is None and made.key("none", "winter-hat") == ""


def card(tiny, name="mine", sha=None):
    return CustomizationCard(name=name, model="tiny", model_sha256=sha or checkpoints.denoiser_hash(tiny), phrases=("x",),
                             stage="1", created="now")


def test_ready_customizations_are_taken_by_name(make, tiny, trainer):
    checkpoints.save_customization(card(tiny), {})
    ready = {"title": "Mine", "customizations": {"winter-hat": "mine"}}
    made = make(methods={"mine": ready, "more": {"title": "More", "start": "mine", "train": {"stage": "2"}}}, tables={}).trainer
    assert made.customization("mine", "winter-hat").card.name == "mine" and not trainer.calls
    with pytest.raises(InvalidInput, match=r"methods\.more\.start: 'mine' is not trained here"):
        made.customization("more", "winter-hat")
    missing = make(methods={"mine": {**ready, "customizations": {"winter-hat": "other"}}}, tables={}).trainer
    with pytest.raises(CustomizationError, match="'other' does not exist"):
        missing.customization("mine", "winter-hat")


def test_a_ready_customization_may_stand_for_every_target(make, tiny, trainer):
    for name in ("mine", "all"):
        checkpoints.save_customization(card(tiny, name), {})
    ready = {"title": "Mine", "customizations": {"winter-hat": "mine", "*": "all"}}
    made = make(methods={"mine": ready}, tables={}).trainer
    names = [made.customization("mine", target).card.name for target in ("winter-hat", "turban", "winter-hat+turban")]
    assert names == ["mine", "all", "all"] and not trainer.calls
    assert made.key("mine", "winter-hat") != made.key("mine", "turban") == made.key("mine", "neon")


def test_a_training_that_leaves_nothing_is_an_error(make, tiny):
    evaluation = make()
    silent = trained.Trainer(evaluation.config, tiny, evaluation.folder, lambda values, library: None)
    with pytest.raises(TrainingError, match="training 'standard' on 'winter-hat' wrote no customization"):
        silent.customization("standard", "winter-hat")


@pytest.fixture
def command(monkeypatch):
    """What would be run, and what it says and returns."""
    seen = {"status": 0, "says": "done"}

    def run(arguments, stdout, env, **_):
        seen.update(arguments=arguments, env=env)
        stdout.write(f"something\n{seen['says']}\n")
        return subprocess.CompletedProcess(arguments, seen["status"])

    monkeypatch.setattr(subprocess, "run", run)
    return seen


def test_training_is_the_command_line_of_everybody_in_a_library_of_its_own(command, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    values = {"data": "/pictures", "name": "a", "model": "tiny", "preset": "quick", "seed": 3, "stage": "2",
              "initial_customization": "b", "method.use_sfcm": False, "stage2.learning_rate": 1e-5}
    trained.train_by_command(values, tmp_path, "cpu", "cpu 1/2")
    words = " ".join(command["arguments"][1:])
    assert words == ("-m spf train --device cpu --once cpu 1/2 --data /pictures --name a --model tiny --preset quick --stage 2 "
                     "--initial-customization b --set seed=3 --set method.use_sfcm=false --set stage2.learning_rate=1e-05")
    assert command["env"]["SPF_HOME"] == str(tmp_path) and not {"RANK", "WORLD_SIZE"} & set(command["env"])


def test_a_failed_training_is_told_in_its_last_words(command, tmp_path):
    command.update(status=2, says="error: data: does not exist")
    with pytest.raises(TrainingError, match=r"training 'a' failed \(error: data: does not exist\); its log is .*a\.txt"):
        trained.train_by_command({"name": "a"}, tmp_path, "cpu", "cpu 1/2")
