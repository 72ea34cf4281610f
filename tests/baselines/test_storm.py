"""STORM against small literal transcriptions, and what it must leave alone."""

import math

import pytest
import torch

from spf.baselines.storm import (
    Storm,
    binding_loss,
    direction_loss,
    distribution,
    find_words,
    overlap_loss,
    sinkhorn,
    storm_loss,
    word_maps,
)
from spf.config import StormConfig
from spf.method.phrases import join_prompt

GRID = (4, 5)
SIZE = GRID[0] * GRID[1]


@pytest.fixture
def maps():
    """Two distributions on a 4x5 grid, with gradient; float64."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, SIZE, generator=generator, dtype=torch.double, requires_grad=True)
    return logits, torch.softmax(logits, dim=-1)


def transport(a, b, cost, regularization=0.1, iterations=100):
    """Sinkhorn with plain loops over iterations; (N, N)."""
    kernel = [[math.e ** (-float(cost[i, j]) / regularization) for j in range(len(b))] for i in range(len(a))]
    u, v = [1.0] * len(a), [1.0] * len(b)
    for _ in range(iterations):
        v = [float(b[j]) / (sum(kernel[i][j] * u[i] for i in range(len(a))) + 1e-8) for j in range(len(b))]
        u = [float(a[i]) / (sum(kernel[i][j] * v[j] for j in range(len(b))) + 1e-8) for i in range(len(a))]
    return torch.tensor([[u[i] * kernel[i][j] * v[j] for j in range(len(b))] for i in range(len(a))], dtype=torch.double)


def test_sinkhorn_is_the_literal_iteration_and_moves_one_map_into_the_other(maps):
    a, b = maps[1].detach()[:, :6] / maps[1].detach()[:, :6].sum(1, keepdim=True)
    cost = torch.rand(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    plan = sinkhorn(a, b, cost, 0.1, 100)
    torch.testing.assert_close(plan, transport(a, b, cost), rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(plan.sum(1), a, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(plan.sum(0), b, rtol=1e-4, atol=1e-6)


def test_the_overlap_is_the_published_transport_cost(maps):
    """The published cost is constant along the target axis: <plan, C> = sum_p a(p) C(p) for any target and any plan."""
    a_sub, a_obj = maps[1].detach()
    disc = torch.softmax(-torch.arange(SIZE, dtype=torch.double) / 3, dim=-1)
    published = 0
    for own, other in ((a_sub, a_obj), (a_obj, a_sub)):
        cost = other[:, None].expand(SIZE, SIZE)
        published += float((sinkhorn(own, disc, cost, 0.1, 100) * cost).sum())
    assert float(overlap_loss(a_sub, a_obj)) == pytest.approx(published, rel=1e-4)


def test_maps_that_do_not_touch_cost_nothing():
    a, b = torch.eye(SIZE, dtype=torch.double)[[3, 11]]
    assert overlap_loss(a, b) == 0 and overlap_loss(a, a) == 2


@pytest.mark.parametrize("direction", ["left", "right", "above", "below"])
def test_the_cost_of_a_direction_is_the_literal_one(maps, direction):
    a_sub, a_obj = maps[1].detach()
    weight, total = 7.0, 0.0
    where = [(p // GRID[1]) if direction in ("above", "below") else (p % GRID[1]) for p in range(SIZE)]
    for own, other, first in ((a_sub, a_obj, True), (a_obj, a_sub, False)):
        centre = sum(float(other[p]) * where[p] for p in range(SIZE))
        smaller_is_right = (direction in ("left", "above")) == first
        for p in range(SIZE):
            ahead = centre - where[p] if smaller_is_right else where[p] - centre
            f = 1 / (weight * max(1, ahead)) if ahead > 0 else weight * -ahead
            total += float(own[p] * other[p]) * f
    assert float(direction_loss(a_sub, a_obj, GRID, direction, weight)) == pytest.approx(total, rel=1e-9)


def test_a_direction_pulls_the_subject_to_its_side():
    x = torch.arange(SIZE) % GRID[1]
    right, left = ((x == column).double() + 0.1 for column in (4, 0))
    right, left = right / right.sum(), left / left.sum()
    assert direction_loss(left, right, GRID, "left", 30.0) < direction_loss(right, left, GRID, "left", 30.0)
    assert direction_loss(right, left, GRID, "right", 30.0) < direction_loss(left, right, GRID, "right", 30.0)


def test_binding_is_the_literal_cost_with_its_gradient(maps):
    logits, (noun, adjective) = maps[0], maps[1]
    index = [[abs(i - j) / (SIZE - 1) for j in range(SIZE)] for i in range(SIZE)]
    value = (noun[:, None] - adjective).abs().detach()
    cost = 0.5 * torch.tensor(index, dtype=torch.double) + 0.5 * value / value.max()
    plan = transport(noun.detach(), adjective.detach(), cost)
    loss = binding_loss(noun, adjective)
    assert loss.item() == pytest.approx(float((plan * cost).sum()), rel=1e-6)
    assert torch.autograd.gradcheck(lambda x: binding_loss(*torch.softmax(x, dim=-1), iterations=20), logits[:, :6], atol=1e-4)


def test_equal_maps_are_bound_closer_than_distant_ones():
    near, far = torch.eye(SIZE, dtype=torch.double)[[2, 17]] + 0.01
    near, far = near / near.sum(), far / far.sum()
    assert binding_loss(near, near) < binding_loss(near, far)


def test_a_distribution_is_blurred_and_sums_to_1():
    spike = torch.zeros(GRID, dtype=torch.double)
    spike[1, 2] = 4
    blurred = distribution(spike.flatten(), GRID).view(GRID)
    side = math.exp(-1 / (2 * 0.5**2))
    assert blurred.sum() == pytest.approx(1)
    assert float(blurred[1, 3] / blurred[1, 2]) == pytest.approx(side)
    assert float(blurred[2, 1] / blurred[1, 2]) == pytest.approx(side**2)
    assert blurred[3].sum() == 0
    torch.testing.assert_close(distribution(spike.flatten()).view(GRID), spike / 4)


def test_word_maps_are_sharpened_attention_of_the_nearest_grid(backbone):
    text = backbone.encode_prompts([join_prompt("a person", ["a winter hat"])])
    with backbone.capture() as captured:
        backbone.predict(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([300]), text)
    layers = captured.layers()
    columns = torch.zeros(1, text.embeddings.shape[1])
    columns[0, 3] = 1
    ours, grid = word_maps(layers, columns)
    assert grid == (8, 8), "of 8x8 and 4x4 the one nearer to 16x16"
    expected = torch.zeros(64, 75)
    used = [layer for layer in layers if layer.grid == grid and "mid" not in layer.name]
    for layer in used:
        for head in range(layer.image.shape[1]):
            a = torch.softmax(layer.image[0, head] @ layer.text[0, head].T / layer.image.shape[-1] ** 0.5, dim=-1)
            expected += a[:, 1:-1] / layer.image.shape[1] / len(used)
    torch.testing.assert_close(ours[0], torch.softmax(100 * expected, dim=-1)[:, 2], rtol=1e-4, atol=1e-6)


def test_words_are_the_heads_of_base_and_target_with_their_adjectives(backbone):
    prompt = join_prompt("a portrait of a person, with red hair", ["a winter hat"])
    words = find_words(backbone, prompt)
    tokens = backbone.tokenizer.tokenize("a portrait of a person, with red hair, a winter hat")
    named = [[tokens[position - 1].removesuffix("</w>") for position in weights.nonzero().flatten()]
             for weights in (words.subject, words.object, words.adjectives[1])]
    assert ["".join(pieces) for pieces in named] == ["person", "hat", "winter"] and words.adjectives[0] is None
    assert words.direction is None and words.subject.sum() == pytest.approx(1)


@pytest.mark.parametrize("text, direction", [("a person left of a tree", "left"), ("a hat above a person", "above")])
def test_a_direction_is_read_from_the_prompt(backbone, text, direction):
    assert find_words(backbone, join_prompt(text, ["a hat"])).direction == direction


def test_without_target_or_subject_there_are_no_words(backbone):
    assert find_words(backbone, join_prompt("a person", ())) is None
    assert find_words(backbone, join_prompt("smiling", ["a hat"])) is None


@pytest.fixture
def overlap(response, backbone):
    """overlap(pair, x): the loss of these latents at the timestep of the second step."""

    def measure(storm, x, t):
        text = backbone.encode_prompts([join_prompt("a person, with red hair, in a blue shirt", ["a winter hat"])])
        with torch.no_grad(), response.capture() as captured:
            response.predict(x, t[None], text)
        return float(storm_loss(captured.layers(), storm._words, 1.0, binds=True))

    return measure


def test_a_step_lowers_the_loss_and_moves_no_farther_than_it_may(make_pair, overlap):
    storm = Storm(StormConfig(step_size=20, binding_from=0), steps=4)
    pair = make_pair(storm)
    t = pair.sampler.timesteps[1]
    with torch.inference_mode():
        moved = storm.latents(pair.response, 1, t, pair.noise, pair.full)
    assert overlap(storm, moved.clone(), t.clone()) < overlap(storm, pair.noise.clone(), t.clone())
    limit = 20 * math.sqrt((1 - 0.5 / 3) * pair.noise.numel() / (4 * 64 * 64))
    assert 0 < float((moved - pair.noise).norm()) <= limit * (1 + 1e-5)


@pytest.mark.parametrize("changes, step", [({"step_size": 0}, 1), ({}, 0), ({}, 2), ({"guided_share": 0.25}, 1)])
def test_outside_its_steps_nothing_moves(make_pair, changes, step):
    storm = Storm(StormConfig(**changes), steps=4)
    pair = make_pair(storm)
    with torch.inference_mode():
        assert storm.latents(pair.response, step, pair.sampler.timesteps[step], pair.noise, pair.full) is pair.noise


def test_it_acts_on_the_customized_portrait_only_and_not_without_a_target(make_pair):
    def run(guide, **changes):
        with torch.inference_mode():
            return make_pair(guide, **changes).run()

    plain, led = run(None), run(Storm(StormConfig(), 4))
    assert led.original.tobytes() == plain.original.tobytes() and led.customized.tobytes() != plain.customized.tobytes()
    base, base_led = (run(guide, target_texts=[]) for guide in (None, Storm(StormConfig(), 4)))
    assert base_led.customized.tobytes() == base.customized.tobytes()


def test_a_step_on_the_wrong_side_is_repeated_but_not_for_ever(make_pair, monkeypatch):
    storm, moves = Storm(StormConfig(refinements=3), steps=50), []
    pair = make_pair(storm, base_text="a person left of a chair", num_inference_steps=50)
    monkeypatch.setattr(storm, "_move", lambda backbone, x, *rest: (moves.append(1) or x, 1.0, True))
    with torch.inference_mode():
        for step in (4, 5):
            moves.clear()
            storm.latents(pair.response, step, pair.sampler.timesteps[step], pair.noise, pair.full)
            assert len(moves) == {4: 1, 5: 4}[step]
