"""Going back and forth in the timeline, comparing, and restoring from a picture; without a browser."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from spf.config import GenerationRequest, MagnetConfig
from spf.generation.history import save_result
from spf.ui import generate_handlers, show, steps, strings
from spf.ui import timeline_handlers as handlers
from spf.ui.chips import Chip
from spf.ui.generate_handlers import Form
from spf.ui.session import Session

FORM = Form(base_text="a person, with red hair", targets=(Chip("a winter hat"),), customization="winter-hat", seed="7",
            steps=4, guidance=4.0, map_steps=2)
TURBAN = replace(FORM, targets=(Chip("a winter hat"), Chip("a turban", 0.5)))


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def draw(service, session):
    def make(form: Form = FORM):
        return list(generate_handlers.generate(service, form, session))[-1]

    return make


def labels(session: Session) -> list[str]:
    return [step["label"] for step in show.timeline(session)["steps"]]


def test_every_step_says_what_it_changed(draw, session):
    for form in (FORM, TURBAN, replace(TURBAN, targets=(Chip("a turban", 0.5), Chip("a winter hat"))),
                 replace(TURBAN, targets=(Chip("a turban", 1.5),), seed=9),
                 replace(TURBAN, targets=(Chip("a turban", 1.5),), seed=9, hold=2.5),
                 replace(TURBAN, targets=(Chip("a turban", 1.5),), seed=9, hold=2.5, interval=2),
                 replace(TURBAN, targets=(Chip("a turban", 1.5),), seed=9, hold=0)):
        screen = draw(form)
    assert labels(session) == [
        "a winter hat · seed 7", "+ a turban ×0.5", "order: a turban, a winter hat",
        "− a winter hat, a turban ×1.5, seed 9", "hold 2.5", "maps every 2 steps", "hold none"]
    assert [step["current"] for step in screen.timeline["steps"]] == [False] * 6 + [True]


def test_undo_redo_and_branch_bring_form_and_pictures(draw, session):
    first, _ = draw(), draw(TURBAN)
    form, screen = handlers.undo(session)
    assert form == FORM and screen.pane("customized").picture == first.pane("customized").picture
    assert screen.timeline["redo"] and not screen.timeline["undo"]
    assert handlers.redo(session)[0] == TURBAN
    handlers.undo(session)
    draw(replace(FORM, seed=8))
    assert [(step["row"], step["column"]) for step in show.timeline(session)["steps"]] == [(0, 0), (0, 1), (1, 1)]
    assert handlers.redo(session)[0] is None, "the branch has no step after it"


def test_a_pair_of_several_is_gone_on_with(draw, session):
    screen = draw(replace(FORM, pairs=3, width=96))
    folder = screen.pairs["pairs"][1]["folder"]
    form, screen = handlers.choose(session, folder)
    assert form == replace(FORM, seed="8", width=96) and labels(session)[1] == "seed 8"
    assert [pair["current"] for pair in screen.pairs["pairs"]] == [False, True, False]
    assert handlers.choose(session, folder)[0] is None, "it is on show already"
    assert handlers.choose(session, "../../etc")[0] is None
    form, screen = handlers.undo(session)
    assert screen.pairs["pairs"][0]["current"] and not draw(replace(FORM, pairs=1)).pairs["pairs"]


def test_a_pair_whose_files_are_gone_is_said(draw, session, spf_home):
    folder = draw(replace(FORM, pairs=2)).pairs["pairs"][1]["folder"]
    (spf_home / "outputs" / folder / "result.json").unlink()
    assert strings.STEP_GONE in handlers.choose(session, folder)[1].notice and len(session.timeline.steps()) == 1


def test_a_reload_finds_the_step_that_was_on_show(draw, session):
    draw()
    draw(TURBAN)
    handlers.undo(session)
    again = Session()
    form, screen = handlers.reopen(again, session.timeline.key)
    assert form == FORM and len(screen.timeline["steps"]) == 2 and screen.map_count == 2
    assert again.current.result.metrics["mean_absolute_difference"] == 0.031


def test_nobody_can_open_a_step_of_another(draw, session):
    draw()
    other = Session()
    form, screen = handlers.go(other, session.timeline.current())
    assert form is None and strings.STEP_GONE in screen.notice and screen.panes is None
    assert handlers.pin(other, session.timeline.current()).panes is None


def test_the_change_the_pollution_and_a_pinned_step_can_be_looked_at(draw, session):
    screen = draw()
    assert [pane.name for pane in screen.panes] == ["original", "customized", "overlay", "pollution"]
    first = session.timeline.current()
    screen = draw(replace(FORM, targets=(Chip("a turban"),)))
    assert screen.pane("change").title == "Change since step 1"
    screen = handlers.pin(session, first)
    assert screen.pane("pinned").title == "Step 1, pinned" and screen.timeline["steps"][0]["pinned"]
    assert handlers.pin(session, first).pane("pinned") is None, "pinned no more"


def test_a_step_whose_files_are_gone_is_said_and_the_rest_stays(draw, session):
    draw()
    first = session.current
    draw(TURBAN)
    (first.folder / "result.json").unlink()
    form, screen = handlers.undo(session)
    assert form is None and strings.STEP_GONE in screen.notice and session.timeline.current() != first.step
    _, screen = handlers.reopen(Session(), session.timeline.key)
    assert screen.pane("pollution") is not None and screen.pane("change") is None


def test_a_deleted_customization_is_said_when_its_step_comes_back(draw, session):
    draw(replace(FORM, customization="gone:0.5+winter-hat"))
    draw()
    form, screen = handlers.undo(session)
    assert form.customization == "" and "'gone'" in screen.notice.replace("&#x27;", "'")


def test_the_chain_is_one_picture_of_the_way_to_the_step_on_show(draw, session, spf_home):
    draw()
    draw(TURBAN)
    address = handlers.chain(session).timeline["download"]
    with Image.open(address.removeprefix("gradio_api/file=")) as sheet:
        assert sheet.width == 16 + 3 * (256 + 16)
    handlers.undo(session)
    with Image.open(handlers.chain(session).timeline["download"].removeprefix("gradio_api/file=")) as sheet:
        assert sheet.width == 16 + 2 * (256 + 16)
    assert handlers.chain(Session()).timeline is None


def test_a_dropped_picture_gives_the_form_back(draw, session, tmp_path):
    draw(TURBAN)
    form, notice = handlers.dropped(str(session.current.picture("customized")))
    assert form == TURBAN and strings.RESTORED in notice
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    form, notice = handlers.dropped(str(tmp_path / "plain.png"))
    assert form is None and "carries no SPF-Portrait settings" in notice
    assert handlers.dropped(None) == (None, "")


def test_a_dropped_picture_gives_back_how_the_original_was_held(draw, session):
    form = replace(FORM, hold=3, smoothing=0.25, interval=2, start=0.3, floor=0.2, heal=0.9)
    draw(form)
    assert handlers.dropped(str(session.current.picture("customized")))[0] == form


def test_what_a_dropped_picture_has_no_field_for_is_said(tmp_path, service, spf_home):
    request = FORM.request().model_copy(update={"guide": MagnetConfig()})
    folder = save_result(service.generate(request), spf_home / "outputs")
    form, notice = handlers.dropped(str(folder / "customized.png"))
    assert form == FORM and "(guide)" in notice and strings.RESTORED not in notice


def test_a_dropped_picture_of_what_does_not_exist_any_more_says_so(draw, session, spf_home):
    draw(replace(FORM, customization="gone"))
    form, notice = handlers.dropped(str(session.current.picture("customized")))
    assert form.customization == "" and "'gone'" in notice.replace("&#x27;", "'")
    draw(FORM)
    request = session.current.result.request.model_copy(update={"model": "elsewhere"})
    folder = save_result(replace(session.current.result, request=request), spf_home / "outputs")
    form, notice = handlers.dropped(str(folder / "customized.png"))
    assert form is None and "elsewhere" in notice


def test_weights_in_the_texts_come_back_as_they_were_written(draw, session):
    form = replace(FORM, base_text="a person, with (red hair:1.3)", targets=(Chip("a [winter] hat"),))
    draw(form)
    assert handlers.dropped(str(session.current.picture("original")))[0] == form


def test_a_hostile_phrase_is_data_in_the_timeline(draw, session):
    draw(replace(FORM, targets=(Chip("<script>alert(1)</script>"),)))
    assert json.dumps(show.timeline(session)).count("<script>") == 2, "label and title: the script sets them as text"


def test_labels_of_requests_that_differ_in_nothing():
    request = GenerationRequest(base_text="a person")
    assert steps.change(request, request) == strings.STEP_SAME
