"""The Portrait tab without a browser."""

import copy
import json
import logging
import time
from dataclasses import asdict, replace

import fakes
import numpy as np
import pytest

from spf.errors import CustomizationError
from spf.generation.history import read_request
from spf.generation.request import GenerationResult, StepView
from spf.method.phrases import join_prompt
from spf.ui import generate_handlers as handlers
from spf.ui import live, strings
from spf.ui.chips import Chip
from spf.ui.generate_handlers import Form
from spf.ui.session import Look, Session
from spf.ui.show import Screen

FORM = Form(base_text="a person, with red hair", targets=(Chip("a winter hat"),), customization="winter-hat", seed="7",
            steps=10, guidance=4.0, map_steps=5)


@pytest.fixture
def session() -> Session:
    return Session()


def run(service, session: Session, form: Form = FORM) -> list[Screen]:
    return list(handlers.generate(service, form, session))


def picture(screen: Screen, name: str):
    return screen.pane(name).picture


def test_a_press_of_generate_is_busy_then_grows_then_ends(session, monkeypatch):
    monkeypatch.setattr(live, "HERTZ", 1000)
    screens = run(fakes.FakeService(0.02), session)
    assert screens[0].busy is True and screens[-1].busy is False
    growing = [screen for screen in screens if screen.panes is not None and screen.busy is None]
    assert growing and all("Drawing: step" in screen.status for screen in growing)
    assert "step 2 of 10" in growing[0].caption
    assert "difference 3.1%" in screens[-1].status and "outside the SFCM n/a" in screens[-1].status


def test_the_original_is_held_unless_the_gain_is_zero(service, session, spf_home):
    run(service, session, FORM)
    run(service, session, replace(FORM, hold=0))
    assert [request.hold_gain for request in service.requests] == [2, 0] and service.requests[1].hold is None
    assert [Form.of_request(request).hold for request in service.requests] == [2, 0]


@pytest.mark.parametrize("share, hold, said", [(0.2, 2, False), (0.5, 2, True), (0.5, 0, False), (float("nan"), 2, False)])
def test_a_style_that_is_cut_off_by_the_held_original_is_said_in_words(session, share, hold, said):
    service = fakes.FakeService(map_of=lambda step: np.full((fakes.GRID, fakes.GRID), share))
    status = run(service, session, replace(FORM, hold=hold))[-1].status
    assert ("concerns 50% of the picture" in status) == said and strings.SEED_USED.format(seed=7) in status


def test_several_seeds_are_one_step_with_a_grid_of_pairs(service, session, spf_home):
    screens = run(service, session, replace(FORM, pairs=3, scheduler="euler", width=64, height=""))
    assert [(request.seed, request.count) for request in service.requests] == [(7, 1), (8, 1), (9, 1)]
    assert {(request.scheduler, request.width, request.height) for request in service.requests} == {("euler", 64, None)}
    last = screens[-1]
    assert last.busy is False and [screen.busy for screen in screens].count(False) == 1
    assert [pair["label"] for pair in last.pairs["pairs"]] == ["seed 7", "seed 8", "seed 9"]
    assert [pair["current"] for pair in last.pairs["pairs"]] == [True, False, False]
    assert len(session.timeline.steps()) == 1 and session.current.result.request.seed == 7
    assert len(list((spf_home / "outputs").glob("*/*/customized.png"))) == 3


def test_a_batch_says_which_pair_grows_and_how_long_all_will_take(session, monkeypatch):
    monkeypatch.setattr(live, "HERTZ", 1000)
    screens = run(fakes.FakeService(0.02), session, replace(FORM, pairs=2))
    words = [screen.status for screen in screens if screen.status and "Drawing" in screen.status]
    assert "Drawing: step 2 of 10" in words[0] and "left" not in words[0], "how many are drawn together is not known yet"
    assert "Pair 1 of 2. Drawing: step 4 of 10" in words[1] and " s left" in words[1]
    assert any("Pair 2 of 2." in one for one in words)


def test_seeds_of_one_batch_grow_together_and_all_results_are_kept(session, monkeypatch, spf_home):
    monkeypatch.setattr(live, "HERTZ", 1000)
    screens = run(fakes.TogetherService(3, 0.02), session, replace(FORM, pairs=5))
    words = [screen.status for screen in screens if screen.status and "Drawing" in screen.status]
    assert any("Pairs 1 to 3 of 5, together. Drawing: step 4 of 10" in one for one in words)
    assert any("Pairs 4 to 5 of 5, together." in one for one in words)
    assert [pair["label"] for pair in screens[-1].pairs["pairs"]] == [f"seed {seed}" for seed in range(7, 12)]
    assert [screen.busy for screen in screens].count(False) == 1 and session.current.result.request.seed == 7
    assert len(list((spf_home / "outputs").glob("*/*/customized.png"))) == 5


def test_the_time_left_counts_all_seeds_of_the_batch():
    look = live.Growing(StepView(4, 10, lambda: (None, None), None), first=0, together=4)
    assert "about 3 s left" in handlers._progress(look, 4, 3.0) and "about 9 s left" in handlers._progress(look, 8, 3.0)


def test_a_batch_that_is_cancelled_gives_back_the_batches_before(session):
    screens = []
    for screen in handlers.generate(fakes.TogetherService(2, 0.02), replace(FORM, pairs=6), session):
        screens.append(screen)
        if screen.pairs is not None and len(screen.pairs["pairs"]) == 2:
            handlers.cancel(session)
    assert strings.CANCELLED in screens[-1].notice and len(screens[-1].pairs["pairs"]) == 2
    assert session.current.result.request.seed == 7 and screens[-1].busy is False


def test_an_error_in_a_later_batch_leaves_the_earlier_ones_on_show(session):
    class Breaks(fakes.FakeService):
        def generate(self, request, *args, **kwargs):
            if request.seed == 9:
                raise CustomizationError("customization: is gone.")
            return super().generate(request, *args, **kwargs)

    screen = run(Breaks(), session, replace(FORM, pairs=4))[-1]
    assert "Customization: is gone" in screen.notice and len(screen.pairs["pairs"]) == 2 and screen.busy is False
    assert session.current is session.batch


def test_a_cancelled_batch_keeps_what_is_drawn(session):
    class Cancels(fakes.FakeService):
        def generate(self, request, *args, **kwargs):
            if self.requests:
                handlers.cancel(session)
            return super().generate(request, *args, **kwargs)

    service = Cancels()
    screen = run(service, session, replace(FORM, pairs=5))[-1]
    assert strings.CANCELLED in screen.notice and len(screen.pairs["pairs"]) == 1 and len(service.requests) == 2
    assert session.current.result.request.seed == 7 and "difference 3.1%" in screen.status


def test_the_service_gets_what_the_form_says(service, session):
    run(service, session)
    request = service.requests[0]
    assert (request.customization, request.target_texts, request.seed) == ("winter-hat", ("a winter hat",), 7)
    assert (request.num_inference_steps, request.guidance_scale, request.map_steps) == (10, 4.0, 5)


def test_a_fast_model_does_not_flood_the_page(session):
    screens = run(fakes.FakeService(0.002), session, Form(**{**vars(FORM), "steps": 200, "map_steps": 200}))
    assert len(screens) < 25


def test_results_are_saved_with_the_settings_in_the_pictures(service, session, spf_home):
    screen = run(service, session)[-1]
    assert picture(screen, "original").is_relative_to(spf_home / "outputs")
    assert {path.name for path in picture(screen, "original").parent.iterdir()} == {
        "original.png", "customized.png", "sfcm.png", "maps.npz", "result.json"}
    assert read_request(picture(screen, "customized")) == service.requests[0]
    assert json.loads((picture(screen, "original").parent / "result.json").read_text())["request"]["seed"] == 7


def test_looking_differently_does_not_run_the_model(service, session):
    run(service, session)
    screens = [handlers.redraw(session, look) for look in (
        Look(opacity=0.2), Look(map="soft_map"), Look(map="target_maps:0", mean=False, step=2))]
    assert len(service.requests) == 1
    assert len({picture(screen, "overlay").tobytes() for screen in screens}) == 3


def test_looking_differently_draws_no_comparison_anew(service, session):
    run(service, session)
    first, second = (handlers.redraw(session, Look(opacity=opacity)) for opacity in (0.2, 0.8))
    assert second.pane("pollution") is first.pane("pollution") and second.pane("overlay") is not first.pane("overlay")
    run(service, session, replace(FORM, seed="8"))
    assert handlers.redraw(session, Look()).pane("pollution") is not first.pane("pollution")


def test_the_chosen_look_holds_for_the_next_result(service, session):
    run(service, session)
    handlers.redraw(session, Look(map="soft_map", mean=False, step=3))
    screen = run(service, session)[-1]
    assert (screen.map_key, screen.map_step) == ("soft_map", 3)
    assert "M: where the two models differ, step 6 of 10" in screen.caption


def test_looking_before_anything_was_drawn_says_so(session):
    assert strings.MAP_BEFORE in handlers.redraw(session, Look()).caption


def test_cancel_ends_the_generation_and_frees_the_button(session):
    service = fakes.FakeService(0.05)
    screens = []
    for screen in handlers.generate(service, FORM, session):
        screens.append(screen)
        if screen.panes is not None:
            handlers.cancel(session)
    assert screens[-1].busy is False and strings.CANCELLED in screens[-1].notice
    assert strings.STATUS_UNFINISHED in screens[-1].status
    assert session.timeline.steps() == []


def test_cancelling_before_the_first_picture_keeps_the_earlier_result_on_show(session):
    run(fakes.FakeService(), session)
    generation = handlers.generate(fakes.FakeService(0.2), FORM, session)
    next(generation)
    handlers.cancel(session)
    assert "difference 3.1%" in list(generation)[-1].status
    assert session.current.step == session.timeline.current()


def test_closing_the_page_stops_the_model(session):
    stopped = []

    class Watching(fakes.FakeService):
        def generate(self, request, on_step=None, is_cancelled=lambda: False):
            try:
                return super().generate(request, on_step, is_cancelled)
            finally:
                stopped.append(is_cancelled())

    generation = handlers.generate(Watching(0.05), FORM, session)
    for screen in generation:
        if screen.panes is not None:
            break
    generation.close()
    until = time.monotonic() + 10
    while not stopped and time.monotonic() < until:
        time.sleep(0.01)
    assert stopped == [True]


def test_pages_share_nothing(service):
    first = Session()
    run(service, first)
    second = copy.deepcopy(first)  # what gr.State does for a new page
    assert len(first.timeline.steps()) == 1 and second.timeline.steps() == [] and second.stop is not first.stop


def test_a_change_is_drawn_at_once_only_where_there_is_something_new(service, session):
    assert not handlers.wants_redraw(session, FORM, True), "nothing was drawn yet"
    run(service, session)
    heavier = replace(FORM, targets=(Chip("a winter hat", 1.5),))
    assert handlers.wants_redraw(session, heavier, True) and not handlers.wants_redraw(session, heavier, False)
    assert not handlers.wants_redraw(session, FORM, True), "the same request"
    assert handlers.wants_redraw(session, replace(FORM, targets=(Chip("a person, with red hair"),)), True), "to say why not"


def test_a_generation_that_a_change_replaces_ends_without_a_word(service, session):
    run(service, session)
    generation = handlers.generate(fakes.FakeService(0.2), replace(FORM, seed=7), session)
    next(generation)
    handlers.supersede(session, replace(FORM, seed=8))
    assert list(generation)[-1].notice == "" and len(session.timeline.steps()) == 1


def test_a_change_does_not_stop_the_first_portrait_since_nothing_would_be_drawn_in_its_place(session):
    generation = handlers.generate(fakes.FakeService(0.02), FORM, session)
    next(generation)
    changed = replace(FORM, seed=8)
    assert not handlers.wants_redraw(session, changed, True)
    handlers.supersede(session, changed)
    list(generation)
    assert len(session.timeline.steps()) == 1


@pytest.mark.parametrize("form", [FORM, replace(FORM, seed="x")], ids=["the same", "not usable"])
def test_a_generation_goes_on_where_the_form_asks_for_nothing_else(session, form):
    generation = handlers.generate(fakes.FakeService(0.02), FORM, session)
    next(generation)
    handlers.supersede(session, form)
    list(generation)
    assert len(session.timeline.steps()) == 1 and session.running is None


def test_weights_and_switched_off_phrases_reach_the_request(service, session):
    run(service, session, replace(FORM, targets=(Chip("a hat", 0.5), Chip("a scarf", 2, on=False), Chip("a tie"))))
    request = service.requests[0]
    assert request.target_texts == ("a hat", "a tie") and request.target_weights == (0.5, 1.0)


@pytest.mark.parametrize("weight", [-1, 2.5, float("nan"), "much", None, [1], 1e400])
def test_weights_that_cannot_be_used_are_said(service, session, weight):
    screen = run(service, session, replace(FORM, targets=(Chip("a hat", weight),)))[-1]
    assert strings.TARGETS in screen.notice and service.requests == []


def test_the_browser_gives_back_what_it_was_given():
    form = replace(FORM, targets=(Chip("a hat", 0.5, on=False),))
    kept = json.loads(json.dumps({"timeline": "0" * 32, "form": asdict(form)}))
    assert handlers.remembered(kept) == ("0" * 32, form, "")


def test_a_customization_that_was_deleted_elsewhere_is_said_when_the_page_opens_again():
    form = replace(FORM, customization="gone:0.5+winter-hat")
    key, found, notice = handlers.remembered({"form": asdict(form)})
    assert (key, found) == (None, replace(form, customization=""))
    assert "'gone', which was chosen here, does not exist any more" in notice.replace("&#x27;", "'")


@pytest.mark.parametrize("stored", [
    None, 7, [], {}, {"form": 3}, {"form": {"x": 1}}, {"form": {"targets": [{"y": 1}]}}, {"timeline": "../x", "form": {}}])
def test_what_another_page_left_in_the_browser_is_ignored(stored):
    assert handlers.remembered(stored) == (None, None, "")


def test_the_first_form_has_a_customization_and_its_phrase():
    first = handlers.first_form(Form(base_text="a person"))
    assert (first.customization, first.targets) == ("winter-hat", (Chip("a winter hat"),))


def failing(error: Exception):
    class Service(fakes.FakeService):
        def generate(self, *args, **kwargs) -> GenerationResult:
            raise error

    return Service()


def test_a_users_error_is_shown_as_it_is(session):
    screens = run(failing(CustomizationError("customization: 'x' does not exist; choose one of: winter-hat.")), session)
    assert "Customization: &#x27;x&#x27; does not exist; choose one of" in screens[-1].notice
    assert screens[-1].busy is False


def test_any_other_error_is_logged_and_told_in_plain_words(session, caplog):
    with caplog.at_level(logging.ERROR):
        screens = run(failing(RuntimeError("secret /etc/path")), session)
    assert strings.UNEXPECTED.split(".")[0] in screens[-1].notice and "secret" not in screens[-1].notice
    assert "secret /etc/path" in caplog.text
    assert screens[-1].busy is False


def test_a_full_disk_does_not_lose_the_result(service, session, monkeypatch):
    def refuse(result, root):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(handlers, "save_result", refuse)
    screen = run(service, session)[-1]
    assert "No space left on device" in screen.notice and screen.busy is False
    assert picture(screen, "original") is session.current.result.original


def test_phrases_that_did_not_fit_are_named(session):
    class Short(fakes.FakeService):
        def generate(self, request, on_step=None, is_cancelled=lambda: False):
            result = super().generate(request, None, is_cancelled)
            kept = join_prompt("a person", request.target_texts)
            return GenerationResult(request, result.original, result.customized, kept, result.gamma[:1], result.maps)

    assert "&#x27;red hair&#x27;" in run(Short(), session)[-1].notice


def test_dice_give_a_seed_that_the_form_accepts():
    seeds = {handlers.dice() for _ in range(8)}
    assert len(seeds) > 1
    assert all(Form(**{**vars(FORM), "seed": seed}).request().seed == int(seed) for seed in seeds)


def test_phrases_follow_the_customization_unless_the_user_wrote_one(shipped):
    fakes.add_customization(shipped, "neon", "neon style")
    assert handlers.targets_for("neon", (Chip("a winter hat", 1.2),)) == (Chip("neon style"),)
    assert handlers.targets_for("neon", ()) == (Chip("neon style"),)
    assert handlers.targets_for("neon", (Chip("a green parrot"),)) == (Chip("a green parrot"),)
    assert handlers.targets_for("", (Chip("a winter hat"),)) == (Chip("a winter hat"),)


def test_whatever_a_person_wrote_is_escaped(service, session):
    form = Form(**{**vars(FORM), "targets": (Chip("<img src=x onerror=alert(1)>"),)})
    run(service, session, form)
    screen = handlers.redraw(session, Look(map="target_maps:0"))
    assert "<img" not in screen.caption and "&lt;img" in screen.caption
