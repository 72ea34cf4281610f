"""The registry: everything the paper compares is there, and what is not defined for a family says so."""

import typing

import pytest

from spf import config
from spf.baselines.registry import ABLATIONS, GUIDES, METHODS, VARIANTS, make_guide, training_stages
from spf.config import RECIPES, GenerationRequest, Recipe, parse
from spf.errors import InvalidInput


def test_every_row_of_table_1_is_there():
    assert [method.title for method in METHODS.values()] == [
        "Standard fine-tuning", "LoRA", "AdaLoRA", "TokenCompose", "Magnet", "STORM", "SPF-Portrait"]
    assert all((method.make_stages is None) != (method.make_guide is None) for method in METHODS.values())


def test_the_schema_and_the_registry_name_the_same_methods():
    trained = {name for name, method in METHODS.items() if method.make_stages}
    assert trained == set(typing.get_args(Recipe)) == set(RECIPES)
    assert set(GUIDES) == set(METHODS) - trained


@pytest.mark.parametrize("overrides", [*VARIANTS.values(), *ABLATIONS.values()], ids=[*VARIANTS, *ABLATIONS])
def test_variants_and_ablations_are_settings_that_differ_from_the_default(tiny, overrides):
    plain = config.train_config("tiny", {"data": "x", "name": "y"})
    changed = config.train_config("tiny", {"data": "x", "name": "y", **overrides})
    assert (changed == plain) == (overrides == VARIANTS["cross-attention"])


@pytest.mark.parametrize("family", ["mmdit"])
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if "mmdit" not in method.families])
def test_a_method_that_the_family_cannot_have_is_refused(tiny, name):
    with pytest.raises(InvalidInput, match=f"method: '{name}'.*'tiny' is of the family 'mmdit'; choose another"):
        if METHODS[name].make_guide:
            make_guide(request(name), tiny)
        else:
            training_stages(config.train_config("tiny", {"data": "x", "name": "y", "recipe": name}), None, None, None)


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_has_the_settings_of_its_request(tiny, name):
    assert make_guide(request(name), tiny).config == request(name).guide


@pytest.mark.parametrize("guide, message", [
    ({"name": "prompt2prompt"}, "guide"), ({"name": "magnet", "strength": -1}, "guide.magnet.strength"),
    ({"name": "storm", "neighbours": 3}, "guide.storm.neighbours.*not a known setting")])
def test_bad_settings_of_a_guide_are_named(guide, message):
    with pytest.raises(InvalidInput, match=message):
        parse(GenerationRequest, {"base_text": "a person", "guide": guide})


@pytest.mark.parametrize("overrides, message", [
    ({"recipe": "dreambooth"}, "recipe.*'spf', 'standard', 'lora', 'adalora' or 'tokencompose'"),
    ({"recipe": "lora", "stage": "2"}, "stage: '2' is a part of the recipe 'spf' only"),
    ({"recipe": "lora", "stage1.trainable": "full"}, "stage1.trainable: must be 'lora'"),
    ({"recipe": "lora", "stage1.adapter.rank": 0}, "stage1.adapter.rank")])
def test_settings_that_contradict_the_recipe_are_refused(tiny, overrides, message):
    with pytest.raises(InvalidInput, match=message):
        config.train_config("tiny", {"data": "x", "name": "y", **overrides})


def test_a_preset_tunes_a_recipe_and_the_command_line_has_the_last_word(tiny, monkeypatch):
    load, recipes = config.load_yaml, {"lora": {"stage1": {"learning_rate": 0.5, "adapter": {"rank": 3}}}}
    monkeypatch.setattr(config, "load_yaml", lambda path: load(path) | (
        {"recipes": recipes} if path.parent.name == "training" else {}))
    values = {"data": "x", "name": "y", "recipe": "lora"}
    tuned = config.train_config("tiny", values).stage1
    assert (tuned.learning_rate, tuned.adapter.rank, tuned.adapter.layers) == (0.5, 3, "attention")
    assert config.train_config("tiny", values | {"stage1.adapter.rank": 7}).stage1.adapter.rank == 7
    assert config.train_config("tiny", values | {"recipe": "spf"}).stage1.learning_rate == 1e-3
    recipes["lorra"] = {}
    with pytest.raises(InvalidInput, match="recipes: 'lorra' of tiny.yaml is not known; choose from spf, standard, lora"):
        config.train_config("tiny", values)
    assert RECIPES["lora"] == {"stage1": {"trainable": "lora", "adapter": {"layers": "attention"}}}, "defaults are not written to"


def request(name: str) -> GenerationRequest:
    return parse(GenerationRequest, {"base_text": "a person", "target_texts": ["a winter hat"], "guide": {"name": name}})
