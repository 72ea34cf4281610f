import math

import pytest
import torch

from spf.method.losses import (
    clip_loss,
    enhanced_loss,
    fine_grained_loss,
    representation_bias,
    text_consistent_loss,
    total_loss,
)

REDUCTIONS = ("mean_sum", "mean_mean", "l2norm")


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# One sample, one head, two rows, two channels: row 0 differs by (3, 4), row 1 by (12, 0).
REF = torch.zeros(1, 1, 2, 2)
RES = torch.tensor([[[[3.0, 4.0], [12.0, 0.0]]]])


@pytest.mark.parametrize(
    "mask, reduction, expected",
    [
        ([1, 1], "mean_sum", (9 + 16 + 144) / 4),
        ([1, 0], "mean_sum", (9 + 16) / 2),  # the excluded row is not in the divisor either
        ([1, 0], "l2norm", 5),
        ([1, 1], "l2norm", 13),
        ([0, 0], "mean_sum", 0),
        ([0, 0], "l2norm", 0),
    ],
)
def test_text_consistent_loss_by_hand(mask, reduction, expected):
    assert text_consistent_loss([REF], [RES], torch.tensor([mask]), reduction).item() == pytest.approx(expected)
    assert text_consistent_loss([REF], [RES], torch.tensor([mask]).bool(), reduction).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "w, reduction, expected",
    [
        (None, "mean_sum", (9 + 16 + 144) / 4),
        ([1.0, 0.0], "mean_sum", (9 + 16) / 4),  # still over all elements: an exempt area relaxes the loss
        ([1.0, 0.5], "mean_sum", (9 + 16 + 36) / 4),  # w inside the square, as Eq. 8 writes it
        ([1.0, 1.0], "l2norm", 13),
        ([0.0, 0.5], "l2norm", 6),
    ],
)
def test_fine_grained_loss_by_hand(w, reduction, expected):
    weights = None if w is None else [torch.tensor([w])]
    assert fine_grained_loss([REF], [RES], weights, reduction).item() == pytest.approx(expected)


@pytest.mark.parametrize("reduction, factor", [("mean_sum", 1), ("mean_mean", 1), ("l2norm", math.sqrt(3))])
def test_heads_are_part_of_the_mean(reduction, factor):
    ref, res, mask = REF.expand(1, 3, 2, 2), RES.expand(1, 3, 2, 2), torch.tensor([[1, 0]])
    one = text_consistent_loss([REF], [RES], mask, reduction)
    torch.testing.assert_close(text_consistent_loss([ref], [res], mask, reduction), factor * one)
    one = fine_grained_loss([REF], [RES], None, reduction)
    torch.testing.assert_close(fine_grained_loss([ref], [res], None, reduction), factor * one)


def test_layers_are_summed_or_averaged():
    mask = torch.ones(1, 2)
    one = text_consistent_loss([REF], [RES], mask)
    for loss in (
        lambda r: text_consistent_loss([REF] * 3, [RES] * 3, mask, r),
        lambda r: fine_grained_loss([REF] * 3, [RES] * 3, None, r),
    ):
        torch.testing.assert_close(loss("mean_sum"), 3 * one)
        torch.testing.assert_close(loss("mean_mean"), one)
        torch.testing.assert_close(loss("l2norm"), torch.tensor(39.0))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_w_of_ones_is_the_vanilla_equation(reduction):
    ref, res = [rand(2, 3, 6, 4), rand(2, 2, 4, 5)], [rand(2, 3, 6, 4, seed=1), rand(2, 2, 4, 5, seed=1)]
    vanilla = fine_grained_loss(ref, res, None, reduction)
    assert vanilla > 0
    ones = [torch.ones(2, 6), torch.ones(2, 4)]
    torch.testing.assert_close(fine_grained_loss(ref, res, ones, reduction), vanilla)
    torch.testing.assert_close(fine_grained_loss(ref, res, [None, ones[1]], reduction), vanilla)
    assert fine_grained_loss(ref, res, [w * 0.5 for w in ones], reduction) < vanilla
    assert fine_grained_loss(ref, res, [w * 0 for w in ones], reduction) == 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_batch_is_the_mean_of_its_samples(reduction):
    """Gradient accumulation over single samples must mean the same as one batch, however many base tokens each has."""
    ref, res, mask = rand(2, 3, 5, 4), rand(2, 3, 5, 4, seed=1), torch.tensor([[1, 1, 1, 1, 0], [0, 1, 0, 0, 0]])
    w = rand(2, 5, seed=2).abs()
    text = [text_consistent_loss([ref[b : b + 1]], [res[b : b + 1]], mask[b : b + 1], reduction) for b in (0, 1)]
    fine = [fine_grained_loss([ref[b : b + 1]], [res[b : b + 1]], [w[b : b + 1]], reduction) for b in (0, 1)]
    torch.testing.assert_close(text_consistent_loss([ref], [res], mask, reduction), sum(text) / 2)
    torch.testing.assert_close(fine_grained_loss([ref], [res], [w], reduction), sum(fine) / 2)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_alignment_has_finite_gradient_when_the_paths_agree(reduction):
    res = rand(2, 3, 5, 4).requires_grad_()
    loss = text_consistent_loss([res.detach()], [res], torch.ones(2, 5), reduction)
    loss = loss + fine_grained_loss([res.detach()], [res], None, reduction)
    loss.backward()
    assert loss == 0
    assert (res.grad == 0).all()


def test_clip_loss_by_hand():
    image, text = torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 3.0], [5.0, 0.0]])
    assert clip_loss(image, text).item() == pytest.approx((1 + 1 - math.sqrt(0.5)) / 2)
    assert clip_loss(image, text, torch.tensor([1.0, 0.0])).item() == pytest.approx(1)


def test_representation_bias_normalises_first():
    bias = representation_bias(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 7.0]]))
    torch.testing.assert_close(bias, torch.tensor([[0.6, 0.8 - 1]]))


@pytest.mark.parametrize(
    "weight, expected",
    [
        (None, (0 + 1 + 2) / 3),
        ([1.0, 1.0, 1.0], 1),
        ([0.0, 0.0, 1.0], 2),
        ([0.0, 0.5, 0.25], 0.5 * 1 + 0.25 * 2),  # weights below one in sum are not blown up
        ([0.0, 0.0, 0.0], 0),
    ],
)
def test_enhanced_loss_by_hand(weight, expected):
    """Same direction, orthogonal, opposite: 0, 1, 2."""
    predicted, truth = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([[1.0, 0.0]]).expand(3, 2)
    weight = None if weight is None else torch.tensor(weight)
    assert enhanced_loss(predicted, truth, weight).item() == pytest.approx(expected, abs=1e-6)


def test_a_gated_sample_gets_no_gradient():
    predicted = rand(2, 4).requires_grad_()
    enhanced_loss(predicted, rand(2, 4, seed=1), torch.tensor([0.0, 1.0])).backward()
    assert not predicted.grad[0].any()
    assert predicted.grad[1].any()
    predicted.grad = None
    enhanced_loss(predicted, rand(2, 4, seed=1), torch.zeros(2)).backward()
    assert not predicted.grad.any()


def test_enhanced_loss_is_zero_only_for_the_true_image():
    image, text = rand(3, 8), rand(3, 8, seed=1)
    bias = representation_bias(image, text)
    assert enhanced_loss(bias, bias).abs() < 1e-9
    assert enhanced_loss(representation_bias(rand(3, 8, seed=2), text), bias) > 0.01


@pytest.mark.parametrize("zero", ["image", "text", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cosines_of_zero_vectors_have_finite_values_and_gradients(zero, dtype):
    image, text = (
        (torch.zeros(2, 4, dtype=dtype) if zero in (name, "both") else torch.ones(2, 4, dtype=dtype)).requires_grad_()
        for name in ("image", "text")
    )
    bias = representation_bias(image, text)
    loss = clip_loss(image, text) + enhanced_loss(bias, torch.ones_like(bias)) + enhanced_loss(bias, bias.detach())
    loss.backward()
    assert loss.isfinite()
    assert image.grad.isfinite().all()
    assert text.grad.isfinite().all()


def test_the_gradient_of_a_zero_vector_is_bounded():
    """An embedding of zeros must not throw the optimizer: its gradient is that of a vector a millionth long, not of eps."""
    image, text = torch.zeros(1, 4, requires_grad=True), torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    for loss in (clip_loss(image, text), representation_bias(image, text).sum()):
        gradient, = torch.autograd.grad(loss, image)
        assert 1e5 < gradient.abs().max() < 1e7


def test_many_tokens_are_counted_wide():
    """A mask in bfloat16, which cannot count beyond 256 one by one."""
    ref, res = rand(1, 1, 301, 2), rand(1, 1, 301, 2, seed=1)
    mask = torch.ones(1, 301)
    torch.testing.assert_close(text_consistent_loss([ref], [res], mask.bfloat16()), text_consistent_loss([ref], [res], mask))


def test_total_loss_adds_what_is_already_weighted():
    terms = {"diff_loss": torch.tensor(1.0), "text_loss": torch.tensor(0.25), "fine_loss": torch.tensor(0.5)}
    assert total_loss(terms).item() == 1.75
    with pytest.raises(ValueError, match="no loss"):
        total_loss({})


def test_half_precision_differences_are_taken_wide():
    ref, res = torch.full((1, 1, 2, 2), 1.0).bfloat16(), torch.full((1, 1, 2, 2), -0.002).bfloat16()
    gap = (res.float() - ref.float()).square().mean()
    assert (res - ref).float().square().mean() == 1 < gap - 1e-3, "bfloat16 loses the difference"
    loss = fine_grained_loss([ref], [res])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, gap)
    torch.testing.assert_close(text_consistent_loss([ref], [res], torch.ones(1, 2)), gap)


def test_what_is_refused():
    mask = torch.ones(1, 2)
    with pytest.raises(ValueError, match="reduction must be"):
        text_consistent_loss([REF], [RES], mask, "sum")
    with pytest.raises(ValueError, match="no layer"):
        text_consistent_loss([], [], mask)
    with pytest.raises(ValueError, match="no layer"):
        fine_grained_loss([], [])
    with pytest.raises(ValueError, match="differ in shape"):
        fine_grained_loss([REF], [RES[..., :1]])
    with pytest.raises(ValueError, match="shorter"):
        fine_grained_loss([REF, REF], [RES])
    with pytest.raises(ValueError, match="shorter"):
        text_consistent_loss([REF, REF], [RES], mask)
