import numpy as np
import pytest
import torch

from spf.config import EvaluationConfig, parse
from spf.errors import InvalidInput
from spf.evaluation import testset
from spf.pocket import world
from spf.pocket.dataset import training_caption

VALUES = {"name": "x", "methods": {"a": {"title": "A"}}, "tables": {}}


def config(**changes):
    return parse(EvaluationConfig, {**VALUES, **changes})


def test_without_names_all_held_out_attributes_are_targets():
    assert testset.targets_of(config()) == tuple(world.TARGETS)


@pytest.mark.parametrize("changes, message", [
    ({"targets": ["beret"]}, "targets: 'beret' is not known; choose from winter-hat"),
    ({"continuous": {"row": "a", "steps": [["turban"], ["turban", "beret"]]}}, "continuous.steps: 'beret' is not known"),
    ({"sensitivity": {"row": "a", "values": {}, "targets": ["beret"]}}, "sensitivity.targets: 'beret' is not known"),
    ({"targets": ["neon"], "sensitivity": {"row": "a", "values": {}, "targets": ["turban"]}}, "'turban' is not among"),
])
def test_unknown_targets_are_refused_wherever_they_are_named(changes, message):
    with pytest.raises(InvalidInput, match=message):
        testset.targets_of(config(**changes))


@pytest.mark.parametrize("target", ["turban", "neon"])
def test_no_caption_of_the_test_set_was_trained_on(target):
    settings = config(triples=300, pictures=4000)
    taught = {training_caption(target, 0, index) for index in range(4000)}
    cases = testset.triples(settings, target)
    assert len(cases) == 300 and not taught & {case.base_text for case in cases}
    unfiltered = testset.triples(config(triples=300, pictures=1), target)
    assert any(case.base_text in taught for case in unfiltered), "short captions do meet; else this test proves nothing"


def test_a_larger_test_set_begins_with_the_smaller_one():
    few, many = (testset.triples(config(triples=count), "freckles") for count in (5, 20))
    assert many[:5] == few and len(set(many)) == 20


def test_splits_and_targets_share_neither_seeds_nor_captions_by_index():
    cases = [case for split in ("test", "tune") for target in world.TARGETS
             for case in testset.triples(config(split=split, triples=50), target)]
    assert len({case.seed for case in cases}) == len(cases)


def test_captions_name_nothing_that_the_target_hides():
    for case in testset.triples(config(triples=40), "winter-hat"):
        assert "hair" not in case.base_text and "cut" not in case.base_text


def test_prompts_are_the_base_text_and_then_the_phrase():
    case = testset.Triple("turban", "a person", 3)
    assert case.prompt.text == "a person, a turban" and case.base.text == "a person"


def test_chunks_keep_order_and_lose_nothing():
    assert testset.chunks(range(5), 2) == [[0, 1], [2, 3], [4]]


def test_pairs_say_what_may_change_and_reconstructions_that_nothing_may():
    cases = [testset.Triple(target, "a person", 3) for target in ("winter-hat", "freckles")]
    pictures = torch.zeros(2, 3, 32, 32)
    pairs, again = testset.pairs_of(cases, pictures, pictures), testset.reconstructions_of(cases, pictures, pictures)
    assert pairs.target_texts == ("a winter hat", "freckled skin") and pairs.prompts[1] == "a person, freckled skin"
    assert pairs.concerned == (frozenset({"hair_style", "hair_color"}), frozenset())
    assert pairs.regions.shape == (2, 32, 32) and pairs.regions[0].sum() > pairs.regions[1].sum() > 0
    assert again.concerned == (frozenset(),) * 2 and not np.any(again.regions) and again.prompts == ("a person",) * 2
