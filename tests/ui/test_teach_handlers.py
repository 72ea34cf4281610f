"""The Teach tab without a browser."""

import re
import time
from dataclasses import replace
from pathlib import Path

import fakes
import pytest
from PIL import Image

from spf.data.records import read_folder
from spf.errors import SpfError, TrainingError
from spf.jobs import store
from spf.pocket.dataset import render_folder
from spf.ui import catalog, strings
from spf.ui import teach_handlers as handlers
from spf.ui.teach_handlers import FOLDER, RENDERED, UPLOADED, RunView, TeachForm, Watched

FORM = TeachForm(attribute="turban", count=9, name="turban", budget="quick")


def follow_to_the_end(watched: Watched, seconds: float = 20) -> list[RunView]:
    views, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        if (view := handlers.follow(watched)) is not None:
            views.append(view)
            if view.finished:
                return views
        time.sleep(0.02)
    raise AssertionError("the run did not end")


def test_a_rendered_set_is_written_and_the_run_started(training):
    training(steps=20, seconds_per_step=0.0)
    run, report = handlers.start(FORM)
    records = read_folder(Path(run.config().data))
    assert len(records) == 9 and {record.target_text for record in records} == {"a turban"}
    assert report.startswith("9 usable pictures, ready to train.")
    follow_to_the_end(Watched(run.id, announced=False))


def test_a_run_is_followed_in_words_curve_and_pictures(training):
    training(steps=40, seconds_per_step=0.02)
    run, _ = handlers.start(FORM)
    views = follow_to_the_end(Watched(run.id, announced=False))
    assert views[0].headline == "Teaching 'turban'" and not views[0].finished
    assert any("Stage 1, fine-tuning, step" in view.detail and "left" in view.detail for view in views)
    last = views[-1]
    assert (last.headline, last.share, last.taught) == ("'turban' is taught", 1.0, "turban")
    assert set(last.curve["term"]) == set(strings.TERMS.values())
    assert "diffusion 0.2" in last.losses
    samples = [view.sample for view in views if view.sample]
    assert 1 <= len(samples) <= 4, "a sample that was shown is not sent again"
    assert samples[-1][2].size == (128, 128) and samples[-1][2].tobytes() != samples[-1][1].tobytes()
    assert "turban" in catalog.customizations()


def test_the_method_reaches_the_run(training):
    training(steps=4, seconds_per_step=0.0)
    run, _ = handlers.start(replace(FORM, method="lora"))
    assert run.config().recipe == "lora" and run.config().stage1.trainable == "lora"
    follow_to_the_end(Watched(run.id))


def test_earlier_samples_are_looked_at_while_newer_ones_come(training):
    training(steps=40, seconds_per_step=0.0)
    run, _ = handlers.start(FORM)
    watched = Watched(run.id, announced=False)
    assert follow_to_the_end(watched)[-1].samples == 4
    words, pictures = handlers.sample(watched, 2)
    assert "step 20" in words and len(pictures) == 3 and watched.sample_at == 2
    watched.updated, watched.sample_step = 0.0, 30
    view = handlers.follow(watched)
    assert view.sample is None and view.sample_step == 40, "the newest one does not push the earlier one away"
    assert "step 40" in handlers.sample(watched, 9)[0] and watched.sample_at is None
    assert handlers.sample(Watched(), 1) is None


def test_stage_1_alone_is_shown_beside_stage_2(training):
    training(steps=40, seconds_per_step=0.0)
    run, _ = handlers.start(FORM)
    last = follow_to_the_end(Watched(run.id, announced=False))[-1]
    watched = Watched(run.id)
    assert [title for title, _ in handlers.follow(watched).stages] == [
        "Original", "After stage 1, step 20", "After stage 2, step 40"] and last.finished
    lines, samples = run.metrics(), run.samples()
    assert handlers._stages([line for line in lines if line["stage"] == "stage1"], samples) == ()
    assert handlers._stages([{"stage": "stage2", "step": 0}], samples) == (), "a run of stage 2 alone"


@pytest.mark.parametrize("source", [RENDERED, FOLDER])
def test_a_plan_says_time_and_memory_and_leaves_nothing(tiny, spf_home, source):
    (spf_home / "datasets").mkdir(parents=True)
    render_folder("neon", 4, spf_home / "datasets" / "mine", size=64)
    before = sorted(spf_home.rglob("*"))
    words = handlers.plan(replace(FORM, source=source, folder="mine", model="tiny", budget="tiny"))
    assert re.match(r"About \d+ s and [\d.]+ GB of memory", words) and "Stage 2, alignment under the SFCM: 2 steps" in words
    assert sorted(spf_home.rglob("*")) == before


def test_a_plan_of_what_cannot_be_taught_is_refused(spf_home):
    with pytest.raises(SpfError, match="exists already"):
        handlers.plan(replace(FORM, name="winter-hat"))


def test_nothing_is_sent_while_nothing_changes(training):
    training(steps=10, seconds_per_step=0.0)
    watched = Watched(handlers.start(FORM)[0].id, announced=False)
    follow_to_the_end(watched)
    assert handlers.follow(watched) is None


def test_a_page_without_runs_follows_nothing():
    watched = Watched()
    handlers.attach(watched)
    assert watched.run_id is None and handlers.follow(watched) is None


def test_a_reloaded_page_finds_the_run_under_way_and_hears_of_its_end(training):
    training(steps=30, seconds_per_step=0.02)
    run, _ = handlers.start(FORM)
    watched = Watched()
    handlers.attach(watched)
    assert watched.run_id == run.id
    assert follow_to_the_end(watched)[-1].taught == "turban"


def test_a_page_opened_later_shows_the_last_run_but_chooses_nothing(training):
    training(steps=10, seconds_per_step=0.0)
    run, _ = handlers.start(FORM)
    follow_to_the_end(Watched(run.id, announced=False))
    watched = Watched()
    handlers.attach(watched)
    view = handlers.follow(watched)
    assert view.finished and view.taught is None and view.sample is not None


def test_cancel_is_told_at_once_and_ends_the_run(training):
    training(steps=2000, seconds_per_step=0.02)
    run, _ = handlers.start(FORM)
    watched = Watched(run.id, announced=False)
    handlers.ask(watched, "cancel")
    last = follow_to_the_end(watched)[-1]
    assert last.headline == "Teaching 'turban' was cancelled" and not last.failed
    assert "turban" not in catalog.customizations()


def test_a_failure_shows_its_reason_and_a_clean_end_of_the_log(training):
    training(steps=20, seconds_per_step=0.0, fails_at=9)
    run, _ = handlers.start(FORM)
    last = follow_to_the_end(Watched(run.id, announced=False))[-1]
    assert last.failed and last.headline == "Teaching 'turban' failed" and "not a finite number" in last.detail
    assert last.log == "stage2: loss is nan"


def test_a_second_run_is_refused_by_name_and_leaves_no_pictures(training, spf_home):
    training(steps=2000, seconds_per_step=0.02)
    run, _ = handlers.start(FORM)
    with pytest.raises(TrainingError, match=run.id):
        handlers.start(TeachForm(attribute="neon", count=9, name="neon", budget="quick"))
    assert len(list((spf_home / "datasets").iterdir())) == 1
    handlers.ask(Watched(run.id), "cancel")
    follow_to_the_end(Watched(run.id))


def test_uploads_take_their_own_text_or_the_shared_one(training, tmp_path):
    training(steps=10, seconds_per_step=0.0)
    paths = []
    for name in ("a.png", "b.png"):
        Image.new("RGB", (80, 80), "teal" if name == "a.png" else "red").save(tmp_path / name)
        paths.append(str(tmp_path / name))
    run, report = handlers.start(TeachForm(
        UPLOADED, uploads=tuple(paths), phrase="a tall hat", shared_base="a person", name="tall-hat", budget="quick",
        table=(("b.png", "a person in red"), ("a.png", ""))))
    records = read_folder(Path(run.config().data))
    assert [record.base_text for record in records] == ["a person", "a person in red"]
    assert {record.target_text for record in records} == {"a tall hat"}
    assert "2 usable pictures" in report and "too few" in report
    follow_to_the_end(Watched(run.id))


def test_the_curve_shows_every_term_as_a_share_of_its_start():
    lines = [{"step": step, "stage": "stage1", "loss": 9.0, "diff_loss": 4.0 / (step + 1)} for step in range(3)]
    curve = handlers.curve([*lines, {"step": 3, "text_loss": 0.001, "lr": 1.0}]).dropna()
    assert curve[curve["term"] == "diffusion"]["share"].round(3).tolist() == [1.0, 0.5, 0.333]
    assert curve[curve["term"] == "text alignment"]["share"].tolist() == [1.0]
    assert set(handlers.curve([])["term"]) == set(strings.TERMS.values()), "a plot shows what its first data names"
    assert handlers.curve([])["share"].isna().all()


def test_the_curve_begins_anew_with_a_stage_whose_sum_has_more_terms():
    lines = [{"step": step, "stage": stage, "validation_loss": value}
             for step, stage, value in ((0, "stage1", 0.04), (1, "stage1", 0.02), (2, "stage2", 0.8), (3, "stage2", 0.6))]
    assert handlers.curve(lines).dropna()["share"].round(3).tolist() == [1.0, 0.5, 1.0, 0.75]


def test_a_long_run_is_averaged_to_a_bounded_curve():
    curve = handlers.curve([{"step": step, "diff_loss": float(step % 2 + 1)} for step in range(10_000)]).dropna()
    assert len(curve) <= handlers.CURVE_POINTS + 1
    assert curve["share"].between(0.98, 1.02).all(), "the mean of ones and twos"


@pytest.mark.parametrize(("seconds", "words"), [(4.6, "about 5 s"), (89, "about 89 s"), (200, "about 3 min")])
def test_waiting_times_are_said_in_words(seconds, words):
    assert handlers.duration(seconds) == words


@pytest.mark.parametrize(("source", "attribute", "phrase", "name"), [
    ("rendered", "winter-hat", "", "winter-hat-2"), ("rendered", "neon", "ignored", "neon"), ("rendered", None, "", ""),
    (UPLOADED, "neon", "A tall Hat!", "tall-hat"), (UPLOADED, None, None, ""), (UPLOADED, None, "  ", "")])
def test_a_free_name_is_suggested_from_what_is_taught(source, attribute, phrase, name):
    assert handlers.suggested_name(source, attribute, phrase) == name


def test_the_table_lists_the_uploads():
    assert handlers.upload_table(["/tmp/x/a.png", "/tmp/y/b.png"]) == [["a.png", ""], ["b.png", ""]]
    assert handlers.upload_table(None) == []


def test_fake_cards_are_readable():
    """The stand-in must stay a customization as the project reads it."""
    assert catalog.preselected("pocket") == "winter-hat"
    assert catalog.customization_choices("pocket")[1] == ("winter-hat (comes with the app)", "winter-hat")
    assert catalog.phrases("winter-hat") == ["a winter hat", "a warm winter hat"]
    assert fakes.GRID == 16 and store.runs() == []


def test_a_run_is_asked_and_the_page_is_told(training, tmp_path):
    training(steps=200, seconds_per_step=0.02)
    run, _ = handlers.start(FORM)
    watched = Watched(run.id)
    assert handlers.ask(watched, "save") == strings.ASKED["save"] and (run.path / "save").exists()
    assert handlers.ask(watched, "cancel") == strings.ASKED["cancel"]
    follow_to_the_end(watched)
    with pytest.raises(TrainingError, match="nothing is under way"):
        handlers.ask(watched, "sample")
    assert handlers.ask(Watched(), "sample") == ""


def test_a_run_that_ended_early_can_be_resumed(training, monkeypatch):
    training(steps=200, seconds_per_step=0.02)
    run, _ = handlers.start(FORM)
    watched = Watched(run.id)
    handlers.ask(watched, "cancel")
    assert follow_to_the_end(watched)[-1].resumable
    resumed = []
    monkeypatch.setattr(store, "resume", resumed.append)
    handlers.resume(watched)
    assert resumed == [run.id] and not watched.announced


def test_a_set_that_is_here_already_is_taught_and_stays_when_refused(training, spf_home):
    training(steps=4, seconds_per_step=0.0)
    (spf_home / "datasets").mkdir(parents=True)
    folder = render_folder("neon", 3, spf_home / "datasets" / "mine", size=64)
    form = TeachForm(source=FOLDER, folder="mine", name="neon", budget="quick")
    run, report = handlers.start(form)
    assert run.config().data == str(folder.resolve()) and report.startswith("3 usable pictures")
    follow_to_the_end(Watched(run.id, announced=False))
    with pytest.raises(SpfError):
        handlers.start(form)  # the name is taken by now
    assert folder.is_dir()
