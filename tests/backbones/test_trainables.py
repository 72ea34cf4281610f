"""What a stage trains: exactly that learns, whatever was added ends up in plain tensors, and the answer stays the same."""

import copy
import math

import pytest
import torch

from spf.backbones import checkpoints
from spf.backbones.trainables import changed_names, learning, orthogonality, projections
from spf.config import StageConfig
from spf.errors import InvalidInput
from spf.method.phrases import join_prompt

FAMILIES = ("unet", "mmdit")
STEPS = 8


def stage(trainable: str, **adapter) -> StageConfig:
    return StageConfig(learning_rate=1e-2, train_batch_size=2, num_train_epochs=1, trainable=trainable,
                       adapter={"rank": 4, **adapter})


def prediction(backbone, targets=("a winter hat",)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    x_t = torch.randn(1, 4, 8, 8, generator=generator)
    text = backbone.encode_prompts([join_prompt("a person with red hair", targets)])
    return backbone.predict(x_t, torch.tensor([400]), text)


def train(backbone, learner, steps: int = STEPS) -> list[float]:
    """A few steps towards a prediction of zero."""
    optimizer = torch.optim.AdamW(learner.parameters.values(), lr=1e-2, weight_decay=0)
    losses = []
    for _ in range(steps):
        loss = prediction(backbone).square().mean()
        (loss + sum(learner.losses().values())).backward()
        optimizer.step()
        learner.after_step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("trainable", ["full", "cross", "lora", "adalora"])
def test_a_learner_changes_what_it_may_and_its_denoiser_is_plain_afterwards(backbone, trainable):
    before = copy.deepcopy(backbone.denoiser.state_dict())
    config = stage(trainable)
    with learning(backbone, config, STEPS, seed=0) as learner:
        losses = train(backbone, learner)
        inside = prediction(backbone).detach()
    after = backbone.denoiser.state_dict()
    assert losses[-1] < losses[0]
    assert after.keys() == before.keys() and not any(p.requires_grad for p in backbone.denoiser.parameters())
    torch.testing.assert_close(prediction(backbone), inside, rtol=0, atol=1e-5)
    changed = set(checkpoints.changed_tensors(before, after))
    allowed = {name for name, _ in backbone.trainable_parameters("full" if trainable == "full" else "cross")}
    assert changed and changed <= allowed


@pytest.mark.parametrize("family, trainable, layers", [
    *((family, trainable, "cross") for family in FAMILIES for trainable in ("full", "cross", "lora", "adalora")),
    ("unet", "lora", "attention"), ("unet", "adapter", "cross")])
def test_a_fork_needs_copies_only_of_what_its_stage_changes(backbone, trainable, layers):
    config, original = stage(trainable, layers=layers), copy.deepcopy(backbone.denoiser.state_dict())
    whole, lean = backbone.fork(), backbone.fork(changed_names(backbone, config))
    for forked in (whole, lean):
        with learning(forked, config, STEPS, seed=0) as learner:
            train(forked, learner, 3)
    assert checkpoints.changed_tensors(original, backbone.denoiser.state_dict()) == {}, "the original stays as it was"
    assert checkpoints.changed_tensors(whole.denoiser.state_dict(), lean.denoiser.state_dict()) == {}
    learned = checkpoints.changed_tensors(original, lean.denoiser.state_dict())
    shared = {value.data_ptr() for value in backbone.denoiser.state_dict().values()}
    assert learned and not shared & {value.data_ptr() for value in learned.values()}
    own = [name for name, value in lean.denoiser.state_dict().items() if value.data_ptr() not in shared]
    assert trainable == "full" or len(own) < len(original) / 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("trainable", ["lora", "adalora"])
def test_an_addition_begins_as_nothing_and_leaves_nothing(backbone, trainable):
    before, original = copy.deepcopy(backbone.denoiser.state_dict()), prediction(backbone)
    with learning(backbone, stage(trainable), STEPS, seed=0):
        torch.testing.assert_close(prediction(backbone), original, rtol=0, atol=0)
    assert checkpoints.changed_tensors(before, backbone.denoiser.state_dict()) == {}


def test_full_and_cross_train_the_tensors_themselves(backbone):
    for which in ("full", "cross"):
        with learning(backbone, stage(which), STEPS, seed=0) as learner:
            trained = {name for name, parameter in backbone.denoiser.named_parameters() if parameter.requires_grad}
            assert trained == set(learner.parameters) == {name for name, _ in backbone.trainable_parameters(which)}


def test_layers_of_an_addition(backbone):
    cross, attention = (set(projections(backbone, layers)) for layers in ("cross", "attention"))
    linear = {name for name, module in backbone.denoiser.named_modules() if isinstance(module, torch.nn.Linear)}
    assert cross == {name for name in linear if ".attn2." in name} and len(cross) == 28
    assert attention == {name for name in linear if ".attn1." in name or ".attn2." in name}


@pytest.mark.parametrize("family", ["mmdit"])
def test_layers_of_an_addition_to_joint_attention(backbone):
    cross, attention = (projections(backbone, layers) for layers in ("cross", "attention"))
    assert cross == attention and all(".attn." in name for name in cross), "the image-only attn2 is left out"


@pytest.mark.parametrize("trainable", ["lora", "adalora"])
def test_what_is_drawn_depends_on_the_seed_only(backbone, trainable):
    def drawn(seed):
        with learning(backbone.fork(), stage(trainable), STEPS, seed) as learner:
            return {name: value.detach().clone() for name, value in learner.parameters.items()}

    state = torch.get_rng_state()
    first, again, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not touched"
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_captured_features_are_those_of_the_adapted_layers(backbone):
    with learning(backbone, stage("lora"), STEPS, seed=0) as learner:
        train(backbone, learner, 3)
        with backbone.capture() as features:
            prediction(backbone)
        inside = [layer.image.detach() for layer in features.layers()]
    with backbone.capture() as features:
        prediction(backbone)
    for a, b in zip(inside, features.layers(), strict=True):
        torch.testing.assert_close(a, b.image, rtol=0, atol=1e-5)


class TestAdaLora:
    def test_ranks_shrink_to_their_budget(self, backbone):
        with learning(backbone, stage("adalora", rank=4), 24, seed=0) as learner:
            train(backbone, learner, 24)
            kept = [int((value != 0).sum()) for name, value in learner.parameters.items() if "lora_E" in name]
        layers = len(projections(backbone, "cross"))
        assert len(kept) == layers and sum(kept) == 4 * layers
        assert len(set(kept)) > 1, "where it matters there is more of it"

    @pytest.mark.parametrize("steps", [1, 2, 3, 7])
    def test_a_short_run_is_no_error(self, backbone, steps):
        before = prediction(backbone)
        with learning(backbone, stage("adalora"), steps, seed=0) as learner:
            losses = train(backbone, learner, steps)
        assert len(losses) == steps and all(map(math.isfinite, losses))
        assert prediction(backbone).isfinite().all() and not torch.equal(prediction(backbone), before)

    def test_the_orthogonality_term_is_its_definition(self, backbone):
        with learning(backbone, stage("adalora", orthogonality=0.5), STEPS, seed=0) as learner:
            expected = []
            for name, value in learner.parameters.items():
                if "lora_E" in name:
                    continue
                m = value.detach().double()
                m = m if "lora_A" in name else m.T
                expected.append(float(((m @ m.T - torch.eye(len(m))) ** 2).sum() ** 0.5))
            term = learner.losses()["orthogonality"]
        assert term.item() == pytest.approx(0.5 * sum(expected) / len(expected), rel=1e-5)
        assert term.requires_grad

    def test_orthonormal_rows_cost_nothing(self):
        rows = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0][:3]
        assert float(orthogonality([rows])) < 1e-5
        assert float(orthogonality([2 * rows])) == pytest.approx(3 * 3**0.5, rel=1e-5)

    def test_a_restored_allocator_goes_on_as_if_never_stopped(self, backbone):
        straight, stopped = backbone.fork(), backbone.fork()
        config = stage("adalora")

        def run(target, first, steps, state=None, weights=None):
            with learning(target, config, STEPS, seed=0) as learner:
                if state is not None:
                    with torch.no_grad():
                        for name, value in weights.items():
                            learner.parameters[name].copy_(value)
                    learner.restore(state)
                for _ in range(first, first + steps):
                    loss = prediction(target).square().mean()
                    loss.backward()
                    with torch.no_grad():
                        for parameter in learner.parameters.values():
                            parameter.sub_(parameter.grad.sign(), alpha=1e-2)
                    learner.after_step()
                    for parameter in learner.parameters.values():
                        parameter.grad = None
                return ({name: value.detach().clone() for name, value in learner.parameters.items()},
                        {name: value.clone() for name, value in learner.state().items()})

        whole, _ = run(straight, 0, STEPS)
        half, state = run(stopped, 0, 4)
        resumed, _ = run(backbone.fork(), 4, STEPS - 4, state, half)
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


class TestParallelAttention:
    def test_it_begins_as_nothing_and_stays_with_the_customization(self, backbone):
        before, original = copy.deepcopy(backbone.denoiser.state_dict()), prediction(backbone)
        reference = backbone.fork()
        with learning(backbone, stage("adapter"), STEPS, seed=0) as learner:
            torch.testing.assert_close(prediction(backbone), original, rtol=0, atol=0)
            losses = train(backbone, learner)
            inside = prediction(backbone).detach()
        assert losses[-1] < losses[0]
        changed = checkpoints.changed_tensors(before, backbone.denoiser.state_dict())
        added = {name for name in backbone.denoiser.state_dict() if ".parallel." in name}
        assert set(changed) == added == set(learner.parameters)
        restored = reference.fork()
        checkpoints.apply(restored, changed)
        torch.testing.assert_close(prediction(restored), inside, rtol=0, atol=0)
        torch.testing.assert_close(prediction(restored.fork()), inside, rtol=0, atol=0)
        torch.testing.assert_close(prediction(reference), original, rtol=0, atol=0)

    def test_without_a_target_there_is_no_branch(self, backbone):
        without = prediction(backbone, ())
        with learning(backbone, stage("adapter"), STEPS, seed=0) as learner:
            train(backbone, learner, 3)
        torch.testing.assert_close(prediction(backbone, ()), without, rtol=0, atol=1e-6)

    def test_it_is_attention_over_the_target_tokens(self, backbone):
        """One layer, literally: what the branch adds before the output map."""
        with learning(backbone, stage("adapter"), STEPS, seed=0) as learner:
            train(backbone, learner, 3)
        name = next(name for name in learner.parameters).rpartition(".parallel.")[0]
        layer = backbone.denoiser.get_submodule(name)
        text = backbone.encode_prompts([join_prompt("a person", ["a winter hat"])])
        hidden = torch.randn(1, 5, layer.to_q.in_features, generator=torch.Generator().manual_seed(1))
        tokens = (text.target_weights.flatten(2) > 0).any(2)
        with_branch = layer(hidden, encoder_hidden_states=text.embeddings, ip_adapter_masks=tokens)
        plain = layer(hidden, encoder_hidden_states=text.embeddings, ip_adapter_masks=torch.zeros_like(tokens))
        q, rows = layer.to_q(hidden)[0].double(), text.embeddings[0, tokens[0]]
        k, v = (getattr(layer.parallel, part)(rows).double() for part in ("to_k", "to_v"))
        d, expected = q.shape[-1] // layer.heads, []
        for head in range(layer.heads):
            part = slice(head * d, (head + 1) * d)
            expected.append(torch.softmax(q[:, part] @ k[:, part].T / d**0.5, dim=-1) @ v[:, part])
        expected = torch.cat(expected, dim=-1) @ layer.to_out[0].weight.double().T
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close((with_branch - plain)[0].double(), expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("family", ["mmdit"])
    def test_joint_attention_has_nothing_to_stand_beside(self, backbone):
        with pytest.raises(InvalidInput, match="trainable.*'adapter'.*U-Net.*choose 'cross' or 'lora'"):
            with learning(backbone, stage("adapter"), STEPS, seed=0):
                pass
