import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spf.method.control_map import (
    alignment_weight,
    exclude_phrases,
    phrase_relevance,
    refine,
    soft_map,
    subtraction_sequence,
)

REDUCES = ("sum", "max", "mean")


def case(seed, phrases=3, b=2, h=5, w=7):
    """Random (M, A, gamma), all in [0, 1], float64."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(*shape, generator=rng, dtype=torch.float64)

    return draw(b, h, w), draw(b, phrases, h, w) * 0.5, draw(b, phrases)


def test_soft_map_by_hand():
    """Mean of |difference| over two channels is [[0, 1], [2, 4]], divided by its maximum."""
    reference = torch.zeros(1, 2, 2, 2)
    response = torch.tensor([[[[0.0, 1.0], [-1.0, 4.0]], [[0.0, -1.0], [3.0, -4.0]]]])
    m = soft_map(reference, response, quantile=1.0, blur=False)
    torch.testing.assert_close(m, torch.tensor([[[0, 0.25], [0.5, 1]]]))
    l2 = soft_map(reference, response, norm="l2", quantile=1.0, blur=False)
    torch.testing.assert_close(l2, torch.tensor([[[0, 0.25], [math.sqrt(5) / 4, 1]]]))


def test_soft_map_clamps_at_the_quantile():
    """Values 0..100 in a row: with the 50 % quantile everything from 50 up is 1."""
    response = torch.arange(101.0).reshape(1, 1, 1, 101)
    m = soft_map(torch.zeros_like(response), response, quantile=0.5, blur=False).flatten()
    torch.testing.assert_close(m, (torch.arange(101.0) / 50).clamp(max=1))


def test_blur_by_hand():
    """A single 1 becomes the kernel, stretched to a peak of 1: e^-1/2 beside it, e^-1 at the corners."""
    response = torch.zeros(1, 1, 5, 5)
    response[..., 2, 2] = 1
    m = soft_map(torch.zeros_like(response), response, quantile=1.0)[0]
    torch.testing.assert_close(m[2, 2], torch.tensor(1.0))
    torch.testing.assert_close(m[1, 2], torch.tensor(math.exp(-0.5)))
    torch.testing.assert_close(m[1, 1], torch.tensor(math.exp(-1.0)))
    assert not m[0].any()


def test_blur_keeps_a_constant_up_to_the_border():
    from spf.method.control_map import _blur

    torch.testing.assert_close(_blur(torch.full((1, 3, 4), 0.7)), torch.full((1, 3, 4), 0.7))


def test_soft_map_is_scale_free_and_per_sample():
    rng = torch.Generator().manual_seed(0)
    reference, response = (torch.randn(2, 4, 6, 8, generator=rng) for _ in range(2))
    m = soft_map(reference, response)
    assert m.shape == (2, 6, 8)
    assert ((m >= 0) & (m <= 1)).all()
    torch.testing.assert_close(soft_map(reference * 7, response * 7), m)
    torch.testing.assert_close(soft_map(response, reference), m)
    response[1] += torch.randn(4, 6, 8, generator=rng)
    torch.testing.assert_close(soft_map(reference, response)[0], m[0])


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_soft_map_of_equal_predictions_is_zero_not_nan(norm):
    prediction = torch.randn(2, 4, 6, 8)
    noisy = prediction + 1e-6 * torch.randn(2, 4, 6, 8)  # rounding of two runs of one model
    assert not soft_map(prediction, prediction, norm).any()
    assert not soft_map(prediction, noisy, norm).any()
    assert soft_map(prediction, noisy, norm, eps=1e-9).any()
    moving = prediction.clone().requires_grad_()
    soft_map(prediction, moving, norm).sum().backward()
    assert moving.grad.isfinite().all()


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("channels", [1, 4, 16])
def test_a_range_of_a_ten_thousandth_parts_rounding_from_response(norm, channels):
    """Of the mean over channels: a model with more of them does not respond earlier."""
    for strength, answers in ((0.9e-4, False), (1.1e-4, True)):
        response = torch.zeros(1, channels, 4, 4, dtype=torch.float64)
        response[..., 2:] = strength
        assert soft_map(torch.zeros_like(response), response, norm, blur=False).any() == answers


def test_soft_map_survives_a_response_smaller_than_the_quantile():
    """One bright pixel in 64x64: the 99 % quantile is 0, and the pixel must still be the response."""
    response = torch.zeros(1, 4, 64, 64)
    response[..., 20, 30] = 1
    m = soft_map(torch.zeros_like(response), response)
    assert m.isfinite().all()
    assert m[0, 20, 30] == 1
    assert (m > 0).sum() == 9


def test_soft_map_of_half_precision_is_wide():
    a, b = torch.randn(1, 4, 4, 4).bfloat16(), torch.randn(1, 4, 4, 4).bfloat16()
    assert soft_map(a, b).dtype == torch.float32
    torch.testing.assert_close(soft_map(a, b), soft_map(a.float(), b.float()))


def test_phrase_relevance_by_hand():
    phrases = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]])
    gamma = phrase_relevance(phrases, torch.tensor([[5.0, 0.0]]))
    torch.testing.assert_close(gamma, torch.tensor([[1.0, 0.0, 0.0, math.sqrt(0.5), 0.0]]))


def test_gamma_of_a_phrase_that_is_the_target_is_not_above_one():
    """A cosine of equal vectors may round to 1.0000001, which would add to M instead of taking from it."""
    target = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    assert torch.nn.functional.cosine_similarity(target, target).max() > 1
    assert phrase_relevance(target[:, None], target).max() == 1


def test_refine_by_hand():
    """M - 0.5 A_1 - A_2 = [[0.8, 0.2], [0, -0.5 -> 0]], over its maximum 0.8."""
    m = torch.tensor([[[0.8, 0.6], [0.5, 1.0]]])
    maps = torch.tensor([[[[0.0, 0.8], [1.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]]]])
    gamma = torch.tensor([[0.5, 0.0]])
    torch.testing.assert_close(exclude_phrases(m, maps, gamma), torch.tensor([[[0.8, 0.2], [0.0, 0.0]]]))
    torch.testing.assert_close(refine(m, maps, gamma), torch.tensor([[[1.0, 0.25], [0.0, 0.0]]]))
    torch.testing.assert_close(exclude_phrases(m, maps, gamma, "max"), torch.tensor([[[0.8, 0.2], [0.0, 0.0]]]))
    torch.testing.assert_close(exclude_phrases(m, maps, gamma, "mean"), torch.tensor([[[0.8, 0.4], [0.25, 0.25]]]))


def test_refine_gives_up_below_the_floor():
    m = torch.tensor([[[0.04, 0.0]], [[0.06, 0.03]]])
    nothing = torch.zeros(2, 1, 1, 2)
    torch.testing.assert_close(refine(m, nothing, torch.zeros(2, 1)), torch.tensor([[[0.0, 0.0]], [[1.0, 0.5]]]))
    torch.testing.assert_close(refine(m, nothing, torch.zeros(2, 1), floor=0.01)[0], torch.tensor([[1.0, 0.0]]))
    half = torch.tensor([[[0.5, 0.25]]])
    assert not refine(half, nothing[:1], torch.zeros(1, 1), floor=0.5).any(), "a peak at the floor is no response"
    empty = torch.zeros(1, 1, 2, requires_grad=True)
    refine(empty, nothing[:1], torch.zeros(1, 1)).sum().backward()
    assert not empty.grad.any(), "and not a number would be no gradient"


def test_a_mean_over_phrases_that_are_all_padding_takes_nothing_away():
    m = torch.tensor([[[0.5, 0.1]]])
    assert torch.equal(exclude_phrases(m, torch.zeros(1, 2, 1, 2), torch.zeros(1, 2), "mean"), m)


@given(seed=st.integers(0, 2**31), phrases=st.integers(0, 5), reduce=st.sampled_from(REDUCES))
@settings(max_examples=40, deadline=None)
def test_mhat_stays_in_range_and_its_peak_is_one(seed, phrases, reduce):
    m, maps, gamma = case(seed, phrases)
    out = refine(m, maps, gamma, reduce)
    assert ((out >= 0) & (out <= 1)).all()
    peaks = out.amax((-2, -1))
    assert ((peaks == 0) | (peaks == 1)).all()
    assert (exclude_phrases(m, maps, gamma, reduce) <= m).all()


@given(seed=st.integers(0, 2**31), rise=st.floats(0, 1), reduce=st.sampled_from(REDUCES))
@settings(max_examples=40, deadline=None)
def test_a_more_relevant_phrase_is_excluded_less(seed, rise, reduce):
    m, maps, gamma = case(seed)
    m[:, 0, 0], maps[:, :, 0, 0] = 1, 0  # a pixel that is always the peak, so that rescaling cannot hide the order
    more = gamma + rise * (1 - gamma)
    less_excluded = exclude_phrases(m, maps, more, reduce) - exclude_phrases(m, maps, gamma, reduce)
    assert (less_excluded >= -1e-12).all()
    assert (refine(m, maps, more, reduce) - refine(m, maps, gamma, reduce) >= -1e-12).all()


@pytest.mark.parametrize("reduce", REDUCES)
def test_extremes_of_gamma(reduce):
    m, maps, gamma = case(0)
    torch.testing.assert_close(exclude_phrases(m, maps, torch.ones_like(gamma), reduce), m)
    assert exclude_phrases(m, maps, torch.zeros_like(gamma), reduce).sum() < m.sum()


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("padding_gamma", [0.0, 0.3, 1.0])
def test_padding_phrases_change_nothing(reduce, padding_gamma):
    m, maps, gamma = case(1)
    padded_maps = torch.cat([maps, torch.zeros(2, 4, 5, 7, dtype=torch.float64)], 1)
    padded_gamma = torch.cat([gamma, torch.full((2, 4), padding_gamma, dtype=torch.float64)], 1)
    torch.testing.assert_close(refine(m, padded_maps, padded_gamma, reduce), refine(m, maps, gamma, reduce))


@pytest.mark.parametrize("reduce", REDUCES)
def test_equal_predictions_give_a_zero_map_and_full_alignment(reduce):
    prediction = torch.randn(2, 4, 5, 7)
    _, maps, gamma = case(2)
    sfcm = refine(soft_map(prediction, prediction), maps, gamma, reduce)
    assert not sfcm.any()
    assert (alignment_weight(sfcm, (5, 7)) == 1).all()


@pytest.mark.parametrize("reduce", REDUCES)
def test_without_phrases_only_the_stretch_remains(reduce):
    m = torch.tensor([[[0.5, 0.1]]])
    out = refine(m, torch.zeros(1, 0, 1, 2), torch.zeros(1, 0), reduce)
    torch.testing.assert_close(out, torch.tensor([[[1.0, 0.2]]]))


def test_alignment_weight_by_hand():
    sfcm = torch.tensor([[[0.0, 1.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]]])
    torch.testing.assert_close(alignment_weight(sfcm, (1, 2)), torch.tensor([[0.75, 0.5]]))
    torch.testing.assert_close(alignment_weight(sfcm, (2, 4)), 1 - sfcm.flatten(1))  # row by row


def test_alignment_weight_keeps_the_mean():
    sfcm = torch.rand(3, 8, 12)
    torch.testing.assert_close(alignment_weight(sfcm, (4, 3)).mean(1), 1 - sfcm.mean((1, 2)))


def test_subtraction_sequence():
    m, maps, gamma = case(3)
    steps = subtraction_sequence(m, maps, gamma)
    assert steps.shape == (2, 4, 5, 7)
    torch.testing.assert_close(steps[:, 0], m)
    for i in range(3):  # clamped phrase by phrase, as the figure draws it
        one = (steps[:, i] - maps[:, i] * (1 - gamma[:, i])[:, None, None]).clamp(0, 1)
        torch.testing.assert_close(steps[:, i + 1], one)
    torch.testing.assert_close(steps[:, -1], exclude_phrases(m, maps, gamma))


def test_what_is_refused():
    m, maps, gamma = case(0)
    with pytest.raises(ValueError, match="reduce"):
        refine(m, maps, gamma, "min")
    with pytest.raises(ValueError, match="norm"):
        soft_map(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), norm="l3")
    with pytest.raises(ValueError, match=r"\(1, 1, 4, 4\) and \(2, 1, 4, 4\)"):
        soft_map(torch.zeros(1, 1, 4, 4), torch.zeros(2, 1, 4, 4))
