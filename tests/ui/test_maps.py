"""Which map is looked at, and what is said about it."""

from dataclasses import replace

import fakes
import numpy as np
import pytest

from spf.config import GenerationRequest
from spf.ui import maps
from spf.ui.session import Look, Shown

REQUEST = GenerationRequest(base_text="a person, with red hair", target_texts=("a winter hat",), seed=3, map_steps=4)


@pytest.fixture
def shown(service) -> Shown:
    return Shown.of_result(service.generate(REQUEST))


def test_every_map_can_be_chosen_by_what_it_means(shown):
    labels = dict(map(reversed, maps.choices(shown)))
    assert list(labels) == ["sfcm", "soft_map", "phrase_maps:0", "phrase_maps:1", "target_maps:0"]
    assert "red hair" in labels["phrase_maps:1"] and "0.40" in labels["phrase_maps:1"]
    assert "a winter hat" in labels["target_maps:0"]


def test_every_map_is_drawn_over_the_portrait(shown):
    for _, key in maps.choices(shown):
        drawn = maps.draw(shown, Look(map=key))
        assert drawn.usable and drawn.picture.size == shown.customized.size
        assert drawn.picture.tobytes() != shown.customized.tobytes()


def test_the_caption_says_for_which_step_and_timestep_the_map_holds(shown):
    assert "mean of 4 drawn steps (t = 800 to 50)" in maps.draw(shown, Look()).caption
    assert "step 10 of 20 (t = 550)" in maps.draw(shown, Look(mean=False, step=2)).caption
    values = shown.maps[1].sfcm
    assert f"highest {values.max():.2f}" in maps.draw(shown, Look(mean=False, step=2)).caption


def test_steps_look_different_from_one_another_and_from_the_mean(shown):
    looks = [Look(mean=False, step=1), Look(mean=False, step=4), Look()]
    assert len({maps.draw(shown, look).picture.tobytes() for look in looks}) == 3


def test_a_step_beyond_the_drawn_ones_shows_the_last(shown):
    assert maps.draw(shown, Look(mean=False, step=99)).caption == maps.draw(shown, Look(mean=False, step=4)).caption


def test_while_the_portrait_grows_the_newest_map_is_shown(shown):
    live = replace(shown, maps=shown.maps[:2], live=True)
    assert "step 10 of 20" in maps.draw(live, Look()).caption


def test_a_phrase_that_is_gone_falls_back_to_the_sfcm(shown):
    assert maps.available(shown, "phrase_maps:7") == "sfcm"
    assert "SFCM" in maps.draw(shown, Look(map="phrase_maps:7")).caption


@pytest.mark.parametrize(("value", "words"), [(0.0, "is empty"), (np.nan, "not numbers")])
def test_a_map_that_cannot_be_drawn_is_said_in_words_over_the_plain_portrait(value, words):
    service = fakes.FakeService(map_of=lambda step: np.full((16, 16), value))
    shown = Shown.of_result(service.generate(REQUEST))
    drawn = maps.draw(shown, Look())
    assert words in drawn.caption and not drawn.usable
    assert drawn.picture is shown.customized


def test_a_map_in_which_no_place_stands_out_says_so(shown):
    assert "no place stands out" not in maps.draw(shown, Look(map="target_maps:0")).caption
    for one in shown.maps:
        one.target_maps[:] = 1 - one.target_maps
    drawn = maps.draw(shown, Look(map="target_maps:0"))
    assert drawn.usable and "no place stands out" in drawn.caption


def test_without_maps_the_remedy_is_named(service):
    shown = Shown.of_result(service.generate(REQUEST.model_copy(update={"map_steps": 0})))
    drawn = maps.draw(shown, Look())
    assert "Map steps" in drawn.caption and not drawn.usable
