"""Standard fine-tuning, LoRA and AdaLoRA: one stage, as long as both of SPF-Portrait, the diffusion loss and nothing else."""

import pytest

from spf import config
from spf.baselines.fine_tuning import as_long_as_both, stages
from spf.training.loop import steps_of
from spf.training.stages import FineTuneStage


@pytest.fixture
def settings(tiny):
    """settings(key=value): a training run of the tiny preset."""
    return lambda **changes: config.train_config(
        "tiny", {"data": "x", "name": "y", **{key.replace("__", "."): value for key, value in changes.items()}})


def test_the_only_stage_is_the_diffusion_loss(settings, backbone, response, clip):
    (stage, stage_config), = stages(settings(recipe="standard", caption_dropout=0.25), backbone, response, clip)
    assert isinstance(stage, FineTuneStage) and stage.response is response and stage.caption_dropout == 0.25
    assert stage_config.trainable == "full"


@pytest.mark.parametrize("recipe, trainable, layers", [
    ("standard", "full", "cross"), ("lora", "lora", "attention"), ("adalora", "adalora", "attention"),
    ("tokencompose", "full", "cross")])
def test_a_recipe_decides_what_is_trained(settings, recipe, trainable, layers):
    stage = settings(recipe=recipe).stage1
    assert (stage.trainable, stage.adapter.layers) == (trainable, layers)


@pytest.mark.parametrize("examples", [7, 64])
@pytest.mark.parametrize("changes", [
    {"stage1__max_train_steps": 3, "stage2__max_train_steps": 5},
    {"stage1__max_train_steps": 0, "stage2__max_train_steps": 0, "stage1__num_train_epochs": 2, "stage2__num_train_epochs": 6,
     "stage1__train_batch_size": 8, "stage2__train_batch_size": 4, "stage2__gradient_accumulation_steps": 2}])
def test_as_many_updates_as_both_stages(settings, changes, examples):
    values = settings(recipe="standard", **changes)
    both = steps_of(values.stage1, examples) + steps_of(values.stage2, examples)
    assert abs(steps_of(as_long_as_both(values), examples) - both) <= 1


def test_stage_1_alone_is_as_long_as_stage_1(settings):
    values = settings(recipe="lora", stage="1")
    assert as_long_as_both(values) == values.stage1
