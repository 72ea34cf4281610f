"""The committed evaluations: what they promise, without running them."""

import json

import pytest
import torch
import yaml

from spf import config
from spf.baselines import registry
from spf.errors import InvalidInput
from spf.evaluation.run import Evaluation
from spf.evaluation.testset import targets_of

FILES = sorted((config.CONFIGS / "evaluation").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_can_be_trained_as_it_is_written(path):
    loaded = config.evaluation_config(path, {})
    assert loaded.name == path.stem and targets_of(loaded)
    family = config.model_preset(loaded.model).family
    for row in loaded.methods.values():
        if row.train is not None:
            trained = config.train_config(loaded.preset, {"model": loaded.model, "name": "x", "data": "x", **loaded.train,
                                                         **row.train})
            assert family in registry.METHODS[trained.recipe].families
        if row.guide is not None:
            assert row.start and family in registry.METHODS[row.guide.name].families
    study = loaded.sensitivity
    for name, values in (study.values if study else {}).items():
        for value in values:
            config.train_config(loaded.preset, {"model": loaded.model, "name": "x", "data": "x", name: value})


def test_the_evaluation_of_the_other_family_differs_in_what_it_cannot_have():
    folder = config.CONFIGS / "evaluation"
    full, other = (config.evaluation_config(folder / f"{name}.yaml", {}) for name in ("pocket", "pocket-dit"))
    missing = {"tokencompose", "storm", "adapter-cross-attention"}
    assert set(full.methods) - set(other.methods) == missing and set(other.methods) < set(full.methods)
    assert all(other.methods[row] == full.methods[row] for row in other.methods) and other.sensitivity == full.sensitivity
    for number, table in full.tables.items():
        assert other.tables[number].title == table.title
        assert [row for row in table.rows if row not in missing] == list(other.tables[number].rows)
    assert other.model == "pocket-dit" and other.publish != full.publish and other.triples == full.triples


def test_every_row_of_the_other_family_has_a_plan(spf_home):
    """Names of weights, chains of what starts from what, and all cells, from the embedded model itself."""
    found = Evaluation(config.evaluation_config(config.CONFIGS / "evaluation" / "pocket-dit.yaml", {}), torch.device("cpu"),
                       lambda values, library: pytest.fail("nothing is trained"))
    keys = {row: found.trainer.key(row, "winter-hat") for row in found.config.methods}
    trained = {"magnet": "standard", "spf-held": "spf-fastest", "spf-fast-held": "spf-fast",  # these take weights over
               "stage-1-fast-held": "stage-1-fast"}
    assert len(set(keys.values())) == len(keys) - len(trained) and all(keys[row] == keys[start] for row, start in trained.items())
    rows, other = len(keys) + len(found.config.reconstruction), found.config.sensitivity
    assert len(found.cells()) == 10 * rows + len(other.targets) * sum(map(len, other.values.values()))
    assert not spf_home.exists()


def test_a_file_on_top_of_another(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({
        "name": "base", "triples": 5, "methods": {"a": {"title": "A"}, "b": {"title": "B"}}, "tables": {}}))
    top = tmp_path / "top.yaml"
    top.write_text("extends: base.yaml\nname: top\ntriples: null\nmethods: {a: null, b: {title: C}}")
    found = config.evaluation_config(top, {"pictures": 9})
    assert (found.name, found.pictures, found.triples) == ("top", 9, config.EvaluationConfig.model_fields["triples"].default)
    assert {row: method.title for row, method in found.methods.items()} == {"b": "C"}


def test_a_file_on_top_of_one_that_stands_on_another(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({
        "name": "base", "triples": 5, "pictures": 9, "methods": {"a": {"title": "A"}}, "tables": {}}))
    (tmp_path / "middle.yaml").write_text("extends: base.yaml\nname: middle\npictures: null\ntriples: 6")
    (tmp_path / "top.yaml").write_text("extends: middle.yaml\nname: top\nmethods: {b: {title: B}}")
    found = config.evaluation_config(tmp_path / "top.yaml", {})
    assert (found.name, found.triples, list(found.methods)) == ("top", 6, ["a", "b"])
    assert found.pictures == config.EvaluationConfig.model_fields["pictures"].default
    (tmp_path / "base.yaml").write_text("extends: top.yaml")
    with pytest.raises(InvalidInput, match="stands on itself by way of base"):
        config.evaluation_config(tmp_path / "top.yaml", {})


@pytest.mark.parametrize("extends, words", [("nowhere.yaml", "nowhere.yaml: does not exist"), ("[a]", "does not exist"),
                                            ("top.yaml", "stands on itself by way of top")])
def test_a_file_on_top_of_nothing_is_refused(tmp_path, extends, words):
    (tmp_path / "top.yaml").write_text(f"extends: {extends}\nname: top\nmethods: {{a: {{title: A}}}}\ntables: {{}}")
    with pytest.raises(InvalidInput, match=words):
        config.evaluation_config(tmp_path / "top.yaml", {})


def test_every_baseline_gets_equally_many_settings_at_equal_cost():
    found = config.evaluation_config(config.CONFIGS / "evaluation" / "baselines.yaml", {})
    assert found.split == "tune" and set(found.tables) == set(registry.METHODS)
    for method, table in found.tables.items():
        rows = [found.methods[row] for row in table.rows]
        assert len(rows) == 3 == len({json.dumps([row.train, row.guide and row.guide.model_dump()]) for row in rows})
        trained = [config.train_config(found.preset, {"model": found.model, "name": "x", "data": "x", **found.train,
                                                    **row.train})
                   for row in rows if row.train]
        assert {settings.recipe for settings in trained} <= {method} and len(trained) in (0, 3)
        steps = {tuple((stage.max_train_steps, stage.num_train_epochs, stage.train_batch_size)
                       for stage in settings.trained_stages()) for settings in trained}
        assert len(steps) <= 1, "all settings of a method make equally many updates"
        default = config.train_config(found.preset, {"model": found.model, "name": "x", "data": "x", "recipe": method}
                                      if method not in ("magnet", "storm") else {"name": "x", "data": "x"})
        if trained:
            assert default.stage1.learning_rate in {settings.stage1.learning_rate for settings in trained} | (
                _searched_for_holding() if method == "spf" else set())


def _searched_for_holding() -> set[float]:
    """The learning rates of stage 1 that were tried where the original is held, as the app draws."""
    rows = config.evaluation_config(config.CONFIGS / "evaluation" / "gain.yaml", {}).methods.values()
    return {row.train["stage1.learning_rate"] for row in rows if row.train and row.train["stage"] == "1"}


def test_the_full_evaluation_holds_every_method_variant_and_ablation():
    loaded = config.evaluation_config(config.CONFIGS / "evaluation" / "pocket.yaml", {})
    rows = loaded.methods.values()
    recipes = {row.train["recipe"] for row in rows if row.train and "recipe" in row.train} | {"spf"}
    assert recipes | {row.guide.name for row in rows if row.guide} == set(registry.METHODS)
    default = {"stage2.trainable": "full"}
    for changes in (*registry.VARIANTS.values(), *registry.ABLATIONS.values()):
        assert any(changes.items() <= {**default, **(row.train or {})}.items() for row in rows), changes
    assert loaded.triples >= 200 and len(targets_of(loaded)) == 10
    assert set(loaded.tables) == {"1", "5", "6"} and loaded.reconstruction and loaded.sensitivity and loaded.continuous
