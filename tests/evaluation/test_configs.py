"""The committed evaluations: what they promise, without running them."""

import pytest

from spf import config
from spf.baselines import registry
from spf.evaluation.testset import targets_of

FILES = sorted((config.CONFIGS / "evaluation").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_can_be_trained_as_it_is_written(path):
    loaded = config.evaluation_config(path, {})
    assert loaded.name == path.stem and targets_of(loaded)
    family = config.model_preset(loaded.model).family
    for row in loaded.methods.values():
        if row.train is not None:
            trained = config.train_config(loaded.preset, {"model": loaded.model, "name": "x", "data": "x", **row.train})
            assert family in registry.METHODS[trained.recipe].families
        if row.guide is not None:
            assert row.start and family in registry.METHODS[row.guide.name].families
    study = loaded.sensitivity
    for name, values in (study.values if study else {}).items():
        for value in values:
            config.train_config(loaded.preset, {"model": loaded.model, "name": "x", "data": "x", name: value})


def test_the_full_evaluation_holds_every_method_variant_and_ablation():
    loaded = config.evaluation_config(config.CONFIGS / "evaluation" / "pocket.yaml", {})
    rows = loaded.methods.values()
    recipes = {row.train["recipe"] for row in rows if row.train and "recipe" in row.train} | {"spf"}
    assert recipes | {row.guide.name for row in rows if row.guide} == set(registry.METHODS)
    default = {"stage2.trainable": "cross"}
    for changes in (*registry.VARIANTS.values(), *registry.ABLATIONS.values()):
        assert any(changes.items() <= {**default, **(row.train or {})}.items() for row in rows), changes
    assert loaded.triples >= 200 and len(targets_of(loaded)) == 10
    assert set(loaded.tables) == {"1", "5", "6"} and loaded.reconstruction and loaded.sensitivity and loaded.continuous
