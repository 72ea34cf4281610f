"""The loop that knows no equation: steps, seeds, logging, cancelling, and numbers that stop being numbers."""

import dataclasses
import random
from dataclasses import dataclass, field

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from spf.config import MethodConfig
from spf.errors import Cancelled, Paused, TrainingError
from spf.training import checkpoint
from spf.training.checkpoint import Position
from spf.training.loop import Watch, has_stopped_improving, steps_of, train_stage
from spf.training.stages import DualPathStage, FineTuneStage


@dataclass
class OneNumber:
    """The least that is a backbone to the loop."""

    denoiser: nn.Module = field(default_factory=lambda: nn.Linear(1, 1))

    def trainable_parameters(self, which):
        return self.denoiser.named_parameters()


@dataclass
class Scripted:
    """A stage whose losses are the given functions of its weight."""

    terms: dict
    response: OneNumber = field(default_factory=OneNumber)
    name: str = "stage2"

    def training_forward(self, batch, generator):
        return {name: term(self.response.denoiser.weight.sum()) for name, term in self.terms.items()}, {}


@pytest.mark.parametrize("examples, batch, epochs, most, steps", [
    (64, 8, 30, 0, 240), (64, 8, 30, 7, 7), (5, 2, 1, 0, 3), (5, 2, 3, 0, 8), (1, 8, 1, 0, 1), (1, 8, 2, 500, 500)])
def test_steps_of_a_stage(stage_config, examples, batch, epochs, most, steps):
    config = stage_config(train_batch_size=batch, num_train_epochs=epochs, max_train_steps=most)
    assert steps_of(config, examples) == steps


def trained(backbone, clip, empty, examples, config, stage, seed):
    response = backbone.fork()
    made = FineTuneStage(response, empty, 0.5) if stage == "1" else DualPathStage(
        backbone, response, clip, MethodConfig(), empty, 0.2, 0.2)
    logged = []
    train_stage(made, examples, config, seed, Watch(on_log=logged.append))
    return response.denoiser.state_dict(), logged


@pytest.mark.parametrize("stage, which", [("1", "full"), ("2", "cross")])
def test_the_same_seed_gives_the_same_bits(backbone, clip, empty, examples, stage_config, stage, which):
    config = stage_config(trainable=which)
    start = {name: value.clone() for name, value in backbone.denoiser.state_dict().items()}
    (first, log), (second, same_log), (other, _) = (
        trained(backbone, clip, empty, examples, config, stage, seed) for seed in (4, 4, 5))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    timed = {"seconds_per_step", "memory_gb"}
    assert [{k: v for k, v in line.items() if k not in timed} for line in log] == [
        {k: v for k, v in line.items() if k not in timed} for line in same_log]
    changed = {name for name in first if not torch.equal(first[name], start[name])}
    allowed = {name for name, _ in backbone.trainable_parameters(which)}
    assert changed <= allowed and len(changed) > 0.9 * len(allowed)
    assert all(torch.equal(value, start[name]) for name, value in backbone.denoiser.state_dict().items()), "the reference"


def test_the_largest_seed_works(examples, stage_config):
    logged = []
    train_stage(Scripted({"diff": lambda w: w * w}), examples, stage_config(max_train_steps=2), 2**63 - 1,
                Watch(on_log=logged.append))
    assert [line["step"] for line in logged] == [0, 1]


def test_the_total_is_the_sum_of_the_terms_and_training_lowers_it(examples, stage_config):
    logged = []
    stage = Scripted({"diff": lambda w: (w - 3) ** 2, "text": lambda w: (w + 1) ** 2})
    train_stage(stage, examples, stage_config(learning_rate=0.1, max_train_steps=40), 0, Watch(on_log=logged.append))
    assert [line["step"] for line in logged] == list(range(40)) and {line["stage"] for line in logged} == {"stage2"}
    for line in logged:
        assert line["loss"] == pytest.approx(line["diff_loss"] + line["text_loss"], abs=2e-6)
    assert logged[-1]["loss"] < logged[0]["loss"]


def test_gradients_are_clipped(examples, stage_config):
    logged = []
    stage = Scripted({"diff": lambda w: 1e6 * w})
    before = stage.response.denoiser.weight.item()
    config = stage_config(max_train_steps=1, learning_rate=0.5, adam_weight_decay=0.0, max_grad_norm=1e-9)
    train_stage(stage, examples, config, 0, Watch(on_log=logged.append))
    assert logged[0]["grad_norm"] == pytest.approx(1e6)
    assert abs(stage.response.denoiser.weight.item() - before) < 0.4, "Adam divides by |g| + 1e-8, so 1e-9 hardly moves it"


def test_every_step_has_a_gradient_of_its_own(examples, stage_config):
    logged = []
    config = stage_config(max_train_steps=4, max_grad_norm=100.0)
    train_stage(Scripted({"diff": lambda w: 2 * w}), examples, config, 0, Watch(on_log=logged.append))
    assert [line["grad_norm"] for line in logged] == pytest.approx([2.0] * 4), "nothing is left of the step before"


def test_noise_is_a_function_of_seed_and_step(examples, stage_config):
    def draws(seed):
        drawn = []

        class Drawing(Scripted):
            def training_forward(self, batch, generator):
                drawn.append(float(torch.rand((), generator=generator)))
                return super().training_forward(batch, generator)

        train_stage(Drawing({"diff": lambda w: w * w}), examples, stage_config(max_train_steps=5), seed, Watch())
        return drawn

    assert draws(1) == draws(1)
    assert len({*draws(1), *draws(2)}) == 10, "no two steps of any seed share their noise"


def test_the_learning_rate_warms_up(examples, stage_config):
    logged = []
    config = stage_config(max_train_steps=5, lr_warmup_steps=3, learning_rate=0.4)
    train_stage(Scripted({"diff": lambda w: w * w}), examples, config, 0, Watch(on_log=logged.append))
    assert [line["lr"] for line in logged] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_the_learning_rate_falls_to_zero_along_half_a_cosine(examples, stage_config):
    logged = []
    config = stage_config(max_train_steps=5, lr_warmup_steps=1, learning_rate=0.4, lr_scheduler="cosine")
    train_stage(Scripted({"diff": lambda w: w * w}), examples, config, 0, Watch(on_log=logged.append))
    assert [line["lr"] for line in logged] == pytest.approx([0.2, 0.4, 0.2 + 0.1 * 2**0.5, 0.2, 0.2 - 0.1 * 2**0.5])


def test_lines_and_samples_come_when_they_should_and_always_at_the_end(examples, stage_config):
    logged, sampled, stepped = [], [], []
    watch = Watch(on_log=lambda line: logged.append(line["step"]), on_step=lambda stage, step: stepped.append((stage, step)),
                  on_sample=lambda stage, step: sampled.append(step), log_every=3, sample_every=3, first_step=100)
    train_stage(Scripted({"diff": lambda w: w * w}), examples, stage_config(max_train_steps=8), 0, watch)
    assert logged == [100, 103, 106, 107] and sampled == [103, 106, 108]
    assert stepped == [("stage2", 100 + i) for i in range(1, 9)]


def test_no_previews_are_drawn_where_none_are_wanted_but_when_asked(examples, stage_config):
    sampled, asked = [], iter([(), ("sample",)])
    stage = Scripted({"diff": lambda w: w * w})
    watch = Watch(on_sample=lambda _, step: sampled.append(step), sample_every=0, requests=lambda: next(asked, ()))
    train_stage(stage, examples, stage_config(max_train_steps=4), 0, watch)
    assert sampled == [1]


def test_cancelling_stops_before_the_next_step(examples, stage_config):
    stepped = []
    stage = Scripted({"diff": lambda w: w * w})
    watch = Watch(on_step=lambda _, step: stepped.append(step), requests=lambda: ("cancel",) if len(stepped) == 2 else ())
    with pytest.raises(Cancelled):
        train_stage(stage, examples, stage_config(max_train_steps=50), 0, watch)
    assert stepped == [1, 2]
    assert not any(parameter.requires_grad for parameter in stage.response.denoiser.parameters())


def test_cancelling_at_50_random_points_takes_at_most_the_step_under_way(examples, stage_config, monkeypatch):
    """Asked for between two looks, in the middle of a step or before the first: no further step is begun."""
    monkeypatch.setattr(Accelerator, "free_memory", lambda self: None)  # collecting garbage is most of 50 short runs
    for when in random.Random(0).choices(range(4), k=50):
        looks, begun = [], []
        stage = Scripted({"diff": lambda w, begun=begun: begun.append(1) or w * w})

        def requests(looks=looks, begun=begun, when=when):
            looks.append(len(begun))
            return ("cancel",) if len(begun) >= when else ()

        with pytest.raises(Cancelled):
            train_stage(stage, examples, stage_config(max_train_steps=1000), 0, Watch(requests=requests))
        assert len(begun) == when and looks == list(range(when + 1)), "it looks before every step"


@pytest.mark.parametrize("part, named", [
    ("latents", "diff_loss"), ("image_embedding", "enhanced_loss"), ("target_embedding", "enhanced_loss"),
    ("gamma", "gamma_mean")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_breaks_in_a_batch_is_named_by_its_term(backbone, clip, empty, examples, stage_config, part, named, value):
    """Stage 2 itself: a broken picture, CLIP embedding or relevance reaches the numbers as the term it belongs to."""
    broken = dataclasses.replace(examples, **{part: torch.full_like(getattr(examples, part), value)})
    stage, lines = DualPathStage(backbone, backbone.fork(), clip, MethodConfig(enhanced_max_amplification=100.0), empty), []
    with pytest.raises(TrainingError, match=rf"stage2, step 0: .*{named}.* is not a finite number"):
        train_stage(stage, broken, stage_config(max_train_steps=9), 0, Watch(on_log=lines.append))
    assert lines == []


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_training_and_is_named(examples, stage_config, broken):
    steps = []

    def text(w):
        steps.append(1)
        return w * (broken if len(steps) == 3 else 1.0)

    stage = Scripted({"diff": lambda w: w * w, "text": text})
    with pytest.raises(TrainingError, match=r"stage2, step 12: .*text_loss.*lower the learning rate") as caught:
        train_stage(stage, examples, stage_config(max_train_steps=50), 0, Watch(first_step=10))
    assert "diff_loss" not in str(caught.value)
    assert not any(parameter.requires_grad for parameter in stage.response.denoiser.parameters())


def test_numbers_that_break_between_two_lines_are_still_found(examples, stage_config):
    steps = []

    def diff(w):
        steps.append(1)
        return w * (float("nan") if len(steps) == 3 else 1.0)

    with pytest.raises(TrainingError):
        train_stage(Scripted({"diff": diff}), examples, stage_config(max_train_steps=7), 0, Watch(log_every=100))


@pytest.mark.parametrize("which", ["save", "pause"])
def test_a_request_is_answered_between_two_steps(examples, stage_config, which):
    saved, asked = [], iter([(), (), (which,), (), ()])
    watch = Watch(on_checkpoint=lambda state: saved.append((state.step, state.optimizer.param_groups[0]["lr"])),
                  requests=lambda: next(asked), first_step=10)
    config, stage = stage_config(max_train_steps=5), Scripted({"diff": lambda w: w * w})
    if which == "save":
        train_stage(stage, examples, config, 0, watch)
    else:
        with pytest.raises(Paused, match="after step 12; resume"):
            train_stage(stage, examples, config, 0, watch)
    assert saved == [(2, 1e-3)]


def test_checkpoints_come_when_they_should_and_once_for_each_step(examples, stage_config):
    saved, asked = [], iter([(), (), (), ("save",), (), (), (), ()])  # asked for where one was just saved
    watch = Watch(on_checkpoint=lambda state: saved.append(state.step), checkpoint_every=3, requests=lambda: next(asked))
    train_stage(Scripted({"diff": lambda w: w * w}), examples, stage_config(max_train_steps=8), 0, watch)
    assert saved == [3, 6, 8]


def test_no_checkpoint_of_a_step_that_broke(examples, stage_config):
    saved, steps = [], []

    def diff(w):
        steps.append(1)
        return w * (float("nan") if len(steps) == 4 else 1.0)

    watch = Watch(on_checkpoint=lambda state: saved.append(state.step), checkpoint_every=2)
    with pytest.raises(TrainingError, match="step 3"):
        train_stage(Scripted({"diff": diff}), examples, stage_config(max_train_steps=8), 0, watch)
    assert saved == [2]


def test_a_loss_that_runs_away_stops_training(examples, stage_config):
    steps = []

    def diff(w):
        steps.append(1)
        return w * 0 + (1.0 if len(steps) < 15 else 1e4)

    with pytest.raises(TrainingError, match="step 16: the loss is 10,000 times as high.*diff_loss"):
        train_stage(Scripted({"diff": diff}), examples, stage_config(max_train_steps=50), 0, Watch(divergence_factor=100.0))


def test_accumulated_batches_equal_one_large_batch(backbone, clip, empty, examples, stage_config):
    def trained_with(**changes):
        response, lines = backbone.fork(), []
        train_stage(FineTuneStage(response, empty, 0.5), examples, stage_config(max_train_steps=2, **changes), 3,
                    Watch(on_log=lines.append))
        return torch.cat([p.flatten() for _, p in response.trainable_parameters("cross")]), lines

    (whole, lines), (parts, same_lines) = (trained_with(train_batch_size=4),
                                           trained_with(train_batch_size=2, gradient_accumulation_steps=2))
    start = torch.cat([p.flatten() for _, p in backbone.trainable_parameters("cross")])
    assert (whole - start).norm() > 0 and (whole - parts).norm() < 1e-3 * (whole - start).norm()
    assert [line["loss"] for line in same_lines] == pytest.approx([line["loss"] for line in lines], rel=1e-4)
    assert steps_of(stage_config(max_train_steps=0, num_train_epochs=3, gradient_accumulation_steps=2), 8, 2) == 3


def test_validation_sees_the_same_noise_and_never_learns(backbone, clip, empty, examples, stage_config):
    response, lines = backbone.fork(), []
    stage = DualPathStage(backbone, response, clip, MethodConfig(), empty)
    watch = Watch(on_log=lines.append, held_out=examples[[3, 1, 0]], validate_every=2, log_every=3)
    before = [parameter.clone() for parameter in response.denoiser.parameters()]
    train_stage(stage, examples[[2]], stage_config(learning_rate=1e-30, max_train_steps=4, adam_weight_decay=0.0), 0, watch)
    assert [line["step"] for line in lines] == [0, 1, 3] and "validation_loss" not in lines[0]
    assert lines[1]["validation_loss"] == pytest.approx(lines[2]["validation_loss"], rel=1e-6)
    assert lines[1]["validation_diff"] > 0 and lines[1]["validation_preservation"] >= 0
    assert all(torch.equal(a, b) for a, b in zip(before, response.denoiser.parameters(), strict=True))


@pytest.mark.parametrize("losses, patience, expected", [
    ([], 1, False), ([1.0], 1, False), ([1.0, 2.0], 1, True), ([2.0, 1.0], 1, False), ([1.0, 1.0], 1, True),
    ([3.0, 1.0, 2.0], 2, False), ([1.0, 2.0, 3.0], 2, True), ([1.0, 2.0, 0.5], 2, False), ([1.0, 2.0, 3.0], 0, False)])
def test_when_preservation_has_stopped_improving(losses, patience, expected):
    assert has_stopped_improving(losses, patience) == expected


def test_an_early_stop_ends_the_stage_with_sample_and_checkpoint(examples, stage_config):
    """The alignment term is what is watched, not the total."""
    sampled, saved, calls = [], [], []

    class Drifting(Scripted):
        preservation_terms = ("text",)

        def training_forward(self, batch, generator):
            losses, report = super().training_forward(batch, generator)
            calls.append(1)
            return losses | {"text": torch.tensor(1.0 + len(calls) / 100), "diff": losses["diff"] / len(calls)}, report

    watch = Watch(on_sample=lambda stage, step: sampled.append(step), on_checkpoint=lambda state: saved.append(state.step),
                  held_out=examples, validate_every=2, sample_every=100, checkpoint_every=100, early_stop_patience=2)
    train_stage(Drifting({"diff": lambda w: w * w}), examples, stage_config(max_train_steps=50), 0, watch)
    assert sampled == [6] and saved == [2, 6], "the best, and the last"


@dataclass
class Passing(Scripted):
    """Learning takes the weight past the point where the alignment term is lowest."""

    preservation_terms = ("text",)
    best_at: float = 0.0

    def training_forward(self, batch, generator):
        weight = self.response.denoiser.weight.sum()
        return {"diff": -weight, "text": (weight.detach() - self.best_at).abs()}, {}


@pytest.mark.parametrize("most, done", [(50, 7), (5, 5)])
@pytest.mark.parametrize("patience", [0, 4])
def test_a_stage_leaves_the_weights_of_its_best_validation(examples, stage_config, tmp_path, most, done, patience):
    """It stops after 7 steps, or has no more than 5; the third validation was the best. Without patience nothing is kept."""
    stage, weights, sampled = Passing({}), {}, []
    stage.best_at = stage.response.denoiser.weight.item() + 0.3  # Adam goes 0.1 per step

    def save(state):
        position = Position(stage="stage2", stage_step=state.step, step=10 + state.step, global_batch=2, identity={},
                            validations=state.validations, best=state.best)
        checkpoint.save(tmp_path, position, stage.response.denoiser.state_dict(), state.optimizer, state.learner, 1)

    def weight() -> float:
        return stage.response.denoiser.weight.item()

    watch = Watch(on_step=lambda name, step: weights.update({step: weight()}), held_out=examples, validate_every=1,
                  on_sample=lambda stage, step: sampled.append((step, weight())), on_checkpoint=save, first_step=10,
                  early_stop_patience=patience, checkpoint_of=lambda step: checkpoint.load(checkpoint.folder_of(tmp_path, step)))
    config = stage_config(learning_rate=0.1, max_train_steps=most, adam_weight_decay=0.0)
    ended = train_stage(stage, examples, config, 0, watch)
    if patience:
        assert (ended.steps, ended.kept) == (done, 3) and weights[13] != weights[10 + done]
        assert weight() == weights[13]
        assert sampled[-1] == (10 + done, weights[13]), "the last preview shows what is left"
        assert checkpoint.steps(tmp_path) == [13], "only what was better was kept"
    else:
        assert (ended.steps, ended.kept) == (most, most) and weight() == weights[10 + most]
        assert checkpoint.steps(tmp_path) == []


def test_a_stage_whose_last_validation_was_the_best_goes_back_to_nothing(examples, stage_config):
    stage = Passing({}, best_at=100.0)
    watch = Watch(held_out=examples, validate_every=1, early_stop_patience=2, checkpoint_of=lambda step: pytest.fail("read"))
    ended = train_stage(stage, examples, stage_config(learning_rate=0.1, max_train_steps=4), 0, watch)
    assert (ended.steps, ended.kept) == (4, 4)
