"""What the Inspect tab is given: every map with its numbers, and everything that is wrong with them in words."""

import base64

import fakes
import numpy as np
import pytest

from spf.generation.request import StepMaps
from spf.ui import generate_handlers, inspector, strings
from spf.ui.chips import Chip
from spf.ui.generate_handlers import Form
from spf.ui.session import Session

FORM = Form(base_text="a person, with red hair", targets=(Chip("a winter hat"),), steps=10, map_steps=5)


def inspected(service=None, form: Form = FORM) -> dict:
    session = Session()
    list(generate_handlers.generate(service or fakes.FakeService(), form, session))
    return inspector.look(session)


def values_of(payload: dict, key: str) -> np.ndarray:
    entry = next(one for one in payload["maps"] if one["key"] == key)
    return np.frombuffer(base64.b64decode(entry["data"]), np.uint8).reshape(len(payload["steps"]), *payload["grid"]) / 255


def test_every_map_of_every_step_is_there():
    payload = inspected()
    assert [entry["key"] for entry in payload["maps"]] == [
        "soft_map", "without:0", "without:1", "sfcm", "phrase_maps:0", "phrase_maps:1", "target_maps:0",
        "original_maps:0", "original_maps:1"]
    assert [one["step"] for one in payload["steps"]] == [1, 3, 5, 7, 9]
    assert np.abs(values_of(payload, "soft_map")[0] - fakes.blob(1)).max() <= 1 / 255
    assert payload["npz"].endswith("maps.npz") and payload["messages"] == payload["remarks"] == []


def test_every_phrase_is_there_by_group_of_layers_and_in_the_original_model():
    payload = inspected()
    by_key = {entry["key"]: entry for entry in payload["maps"]}
    assert payload["layers"] == ["8x8", "16x16"] and by_key["sfcm"]["layers"] == {}
    for place, key in enumerate(("phrase_maps:0", "phrase_maps:1", "target_maps:0", "original_maps:0", "original_maps:1")):
        values = np.frombuffer(base64.b64decode(by_key[key]["layers"]["16x16"]), np.uint8).reshape(5, 16, 16) / 255
        assert np.abs(values[3] - fakes.blob(place + 1)).max() <= 1 / 255, key
    assert by_key["original_maps:1"]["name"] == "red hair, original model"
    assert np.abs(values_of(payload, "original_maps:1")[0] - fakes.blob(10)).max() <= 1 / 255


def test_a_result_of_an_earlier_version_has_no_layers_to_choose():
    class Earlier(fakes.FakeService):
        def _maps(self, *args):
            made = super()._maps(*args)
            return StepMaps(*(getattr(made, name) for name in (
                "step", "timestep", "soft_map", "sfcm", "phrase_maps", "target_maps")))

    payload = inspected(Earlier())
    assert payload["layers"] == [] and not any("original" in entry["key"] for entry in payload["maps"])


def test_each_phrase_is_taken_away_by_its_irrelevance():
    payload = inspected()
    soft, first, second = (values_of(payload, key) for key in ("soft_map", "without:0", "without:1"))
    phrase, gamma = values_of(payload, "phrase_maps:0"), 0.0  # of the stand-in's first phrase
    assert np.abs(first - (soft - (1 - gamma) * phrase).clip(0, 1)).max() <= 2 / 255
    assert (second <= first + 1 / 255).all()


def test_spans_name_the_phrase_and_its_words_in_the_prompt():
    payload = inspected()
    for entry in payload["maps"]:
        if entry["group"] in ("phrases", "targets"):
            assert payload["prompt"][entry["start"]:entry["end"]] == entry["name"]
    assert [payload["prompt"][start:end] for start, end in payload["tokens"]] == "a person with red hair a winter hat".split()


@pytest.mark.parametrize(("make", "words"), [
    (lambda step: np.zeros((16, 16)), "'SFCM' is empty"),
    (lambda step: np.full((16, 16), np.nan), "'SFCM' holds values that are not numbers")])
def test_empty_and_broken_maps_are_said(make, words):
    payload = inspected(fakes.FakeService(map_of=make))
    assert any(words in message for message in payload["messages"])
    assert not values_of(payload, "sfcm").any()


def test_a_phrase_without_a_place_is_said():
    class Flat(fakes.FakeService):
        def _maps(self, *args):
            made = super()._maps(*args)
            made.target_maps[:] = 0.4
            return made

    assert inspected(Flat())["messages"] == [strings.INSPECT_WEAK.format(name="a winter hat")]


def test_abstract_phrases_are_named_in_one_sentence():
    class Abstract(fakes.FakeService):
        def _maps(self, *args):
            made = super()._maps(*args)
            made.target_maps[:] = 1 - fakes.blob(0)  # from 0 to 1 as every map of a phrase, high nearly everywhere
            made.phrase_maps[0] = 1 - fakes.blob(0)
            return made

    assert inspected(Abstract())["remarks"] == [strings.INSPECT_SPREAD.format(names="'a person', 'a winter hat'")]


def test_a_phrase_that_has_another_place_at_every_step_is_named():
    class Wandering(fakes.FakeService):
        def _maps(self, step, *args):
            made = super()._maps(step, *args)
            made.target_maps[:] = 0.0
            made.target_maps[0, 3 * (step // 2):3 * (step // 2) + 3] = 1.0
            return made

    assert inspected(Wandering())["remarks"] == [strings.INSPECT_SPREAD.format(names="'a winter hat'")]


def test_without_maps_or_a_result_there_is_nothing_to_show():
    assert inspector.look(Session()) is None
    assert inspected(form=Form(base_text="a person", map_steps=0)) is None
