"""A blind comparison from the form to the rates, without a browser."""

import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fakes import TogetherService, add_customization
from PIL import Image

from spf import config
from spf.backbones import checkpoints
from spf.errors import Cancelled, InvalidInput
from spf.generation import service as service_module
from spf.generation.service import GenerationService
from spf.library import CustomizationCard
from spf.ui import catalog
from spf.ui import compare_handlers as handlers
from spf.ui.compare_handlers import CompareForm

FORM = CompareForm("winter-hat", "neon", "a person", "a winter hat", 3)


def prepared(service, form=FORM, stop=None) -> list[tuple[float, str]]:
    return list(handlers.prepare(service, form, stop or threading.Event()))


def test_pairs_are_drawn_answered_later_and_counted(service):
    steps = prepared(service)
    assert all(before[0] <= after[0] for before, after in pairwise(steps)) and steps[-1][0] == 1
    assert "6 of 6 portraits are ready" in steps[-2][1]
    assert [request.customization for request in service.requests] == ["winter-hat"] * 3 + ["neon"] * 3
    assert [request.seed for request in service.requests] == [1, 2, 3] * 2
    session = steps[-1][1]
    asked = handlers.ask(session)
    assert "Pair 1 of 3" in asked.words and len(asked.pictures) == 3
    assert "neon" not in asked.words, "who is who is not told"
    asked = handlers.answer(session, asked.pair, ["left", "right", "tie"])
    assert asked.pair == 1 and handlers.ask(session).pair == 1, "it goes on after a reload"
    with pytest.raises(InvalidInput, match="one is still open"):
        handlers.answer(session, 1, ["left", None, "tie"])
    for pair in (1, 2):
        asked = handlers.answer(session, pair, ["tie", "tie", "tie"])
    assert asked.pair is None
    table = handlers.results(session)
    assert "winter-hat better" in table and "50%" in table
    assert handlers.as_csv(session).read_text().count("\n") == 1 + 9


def test_the_model_s_own_steps_and_guidance_are_used(service):
    requests = CompareForm("winter-hat", "neon", "a person", "a winter hat", 3, "sd15").requests()
    preset = config.model_preset("sd15")
    assert {(one.num_inference_steps, one.guidance_scale) for both in requests for one in both} == {
        (preset.num_inference_steps, preset.guidance_scale)}


def test_many_pairs_are_drawn_in_turns_of_few(service, monkeypatch):
    """So that the second contestant finds the originals of the first."""
    monkeypatch.setattr(handlers, "AT_ONCE", 2)
    assert [[(one.customization, one.seed, one.count) for one in both] for both in FORM.requests()] == [
        [("winter-hat", 1, 2), ("neon", 1, 2)], [("winter-hat", 3, 1), ("neon", 3, 1)]]
    session = prepared(service)[-1][1]
    assert len(handlers.study().pairs(session)) == 3
    assert handlers.AT_ONCE <= 16 <= service_module.ORIGINALS_KEPT


def test_cancelling_ends_between_two_steps_and_begins_no_session():
    service, stop = TogetherService(2, seconds_per_step=0.02), threading.Event()
    steps = handlers.prepare(service, FORM, stop)
    assert next(steps)[0] < 0.5
    stop.set()
    with pytest.raises(Cancelled):
        list(steps)
    assert len(service.requests) <= 2 and handlers.study().sessions() == []


@pytest.fixture
def taught(tiny, response):
    """Customizations 'one' and 'two' of the tiny model, unlike one another."""
    for name, factor in (("one", 1.0), ("two", -1.0)):
        card = CustomizationCard(name=name, model="tiny", model_sha256=checkpoints.denoiser_hash(tiny), phrases=("a winter hat",),
                                 stage="both", created="now")
        checkpoints.save_customization(card, {key: factor * value for key, value in response.trainable_parameters("cross")})


def test_pictures_of_a_batch_are_those_drawn_one_by_one_up_to_rounding(taught, monkeypatch):
    sizes, run = [], service_module.run_together
    monkeypatch.setattr(service_module, "run_together", lambda paths: sizes.append(len(paths)) or run(paths))
    form = replace(FORM, first="one", second="two", model="tiny")
    session = prepared(GenerationService("cpu"), form)[-1][1]
    assert sizes == [3, 3]
    service, [(one, two)], differences = GenerationService("cpu"), form.requests(), []
    for seed in zip(one.one_by_one(), two.one_by_one(), strict=True):
        first, second = map(service.generate, seed)
        pair = found(session, first.original)
        differences += [far(pair.original, first.original), far(pair.first, first.customized)]
        differences.append(far(pair.second, second.customized))
        assert far(pair.first, second.customized) > 1, "the contestants differ"
    assert len(differences) == 9 and max(differences) <= 1, "of 255 levels"


def far(path: str, picture: Image.Image) -> int:
    """The largest difference of a saved picture and another, in levels."""
    with Image.open(catalog.outputs() / path) as saved:
        return int(np.abs(np.asarray(saved, int) - np.asarray(picture, int)).max())


def found(session: str, original: Image.Image):
    """The pair whose original is nearest to a picture: the study shuffles them."""
    return min(handlers.study().pairs(session), key=lambda pair: far(pair.original, original))


def test_a_session_whose_pictures_are_gone_says_so(service):
    session = prepared(service)[-1][1]
    for path in catalog.outputs().glob("*/*/customized.png"):
        path.unlink()
    with pytest.raises(InvalidInput, match="gone or damaged"):
        handlers.ask(session)
    assert handlers.ask(None) is None and handlers.ask("another") is None


@pytest.mark.parametrize("which", ["first", "second"])
def test_the_contestant_that_is_missing_is_named(service, spf_home, which):
    add_customization(spf_home / "customizations", "neon", "neon style")
    with pytest.raises(InvalidInput, match=f"^{which}: nothing is chosen"):
        prepared(service, replace(FORM, **{which: None}))


@pytest.mark.parametrize(("values", "words"), [
    (("winter-hat", "winter-hat", "a person", "a hat", 3), "both contestants are the same"),
    (("winter-hat", None, "a person", "a hat", 3), "second: there are fewer than two customizations of this model; teach"),
    (("winter-hat", "neon", "", "a hat", 3), "base_text: is empty"),
    (("winter-hat", "neon", "a person", "", 3), "empty phrase"),
    (("winter-hat", "neon", "a person", "a hat", 0), "whole number from 1 to 50"),
    (("winter-hat", "neon", "a person", "a hat", 2.5), "whole number"),
    (("winter-hat", "neon", "a person", "a hat", 1e9), "whole number"),
    (("winter-hat", "neon", "a person", "a hat", float("nan")), "whole number"),
    (("winter-hat", "neon", "a person", "a hat", None), "must be a number"),
])
def test_bad_input_draws_nothing(service, values, words):
    with pytest.raises(InvalidInput, match=words):
        prepared(service, CompareForm(*values))
    assert service.requests == [] and handlers.study().sessions() == []
