import pytest
import torch
from torch import Tensor

from spf.method.hold import hold, running_map, weight


def latents(seed: int) -> Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def maps(seed: int) -> Tensor:
    return torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_place_is_free_where_the_gain_lifts_the_map_to_one_and_the_originals_where_it_is_zero():
    x_res, x_ref, m_hat = latents(0), latents(1), torch.zeros(2, 4, 5, dtype=torch.float64)
    m_hat[0, 1, 2], m_hat[1, 3, 4], m_hat[1, 0, 0] = 0.5, 1.0, 0.125
    x = hold(x_res, x_ref, weight(m_hat, 2.0))
    assert torch.equal(x[0, :, 1, 2], x_res[0, :, 1, 2]) and torch.equal(x[1, :, 3, 4], x_res[1, :, 3, 4])
    torch.testing.assert_close(x[1, :, 0, 0], 0.25 * x_res[1, :, 0, 0] + 0.75 * x_ref[1, :, 0, 0])
    untouched = m_hat[:, None].expand_as(x) == 0
    assert torch.equal(x[untouched], x_ref[untouched])


@pytest.mark.parametrize("floor", [0.0, 0.5])
@pytest.mark.parametrize("gain, expected", [(0.0, 1), (1e9, 0)])
def test_no_gain_is_the_original_and_a_huge_one_is_free_wherever_anything_answers(gain, expected, floor):
    m_hat = torch.full((2, 4, 5), 0.01, dtype=torch.float64)
    assert torch.equal(hold(latents(0), latents(1), weight(m_hat, gain, floor)), latents(expected))


def test_up_to_the_floor_a_place_is_held_wholly_and_from_there_the_weight_rises_to_one():
    m_hat = torch.tensor([[[0.0, 0.125, 0.25, 0.375, 0.5, 1.0]]], dtype=torch.float64)
    assert weight(m_hat, 2.0, 0.5).flatten().tolist() == [0, 0, 0, 0.5, 1, 1]
    assert weight(m_hat, 2.0).flatten().tolist() == [0, 0.25, 0.5, 0.75, 1, 1]


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_each_of_several_targets_has_the_gain_of_one(floor):
    assert torch.equal(weight(maps(2) / 8, 2.0, floor, targets=3), weight(maps(2) / 8, 6.0, floor))


def test_the_latents_keep_their_type():
    x = hold(latents(0).bfloat16(), latents(1).bfloat16(), weight(maps(2), 2.0))
    assert x.dtype == torch.bfloat16


def test_the_running_map_forgets_by_its_smoothing():
    seen, m = [maps(seed) for seed in range(4)], None
    for new in seen:
        m = running_map(m, new, 0.5)
    torch.testing.assert_close(m, seen[0] / 8 + seen[1] / 8 + seen[2] / 4 + seen[3] / 2)
    assert torch.equal(running_map(seen[0], seen[1], 0.0), seen[1])
