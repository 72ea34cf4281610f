import pytest
import torch
from torch import Tensor

from spf.method.hold import hold, running_map


def latents(seed: int) -> Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_place_is_free_where_the_gain_lifts_the_map_to_one_and_the_originals_where_it_is_zero():
    x_res, x_ref, m_hat = latents(0), latents(1), torch.zeros(2, 4, 5, dtype=torch.float64)
    m_hat[0, 1, 2], m_hat[1, 3, 4], m_hat[1, 0, 0] = 0.5, 1.0, 0.125
    x = hold(x_res, x_ref, m_hat, 2.0)
    assert torch.equal(x[0, :, 1, 2], x_res[0, :, 1, 2]) and torch.equal(x[1, :, 3, 4], x_res[1, :, 3, 4])
    torch.testing.assert_close(x[1, :, 0, 0], 0.25 * x_res[1, :, 0, 0] + 0.75 * x_ref[1, :, 0, 0])
    untouched = m_hat[:, None].expand_as(x) == 0
    assert torch.equal(x[untouched], x_ref[untouched])


@pytest.mark.parametrize("gain, expected", [(0.0, 1), (1e9, 0)])
def test_no_gain_is_the_original_and_a_huge_one_is_free_wherever_anything_answers(gain, expected):
    m_hat = torch.full((2, 4, 5), 0.01, dtype=torch.float64)
    assert torch.equal(hold(latents(0), latents(1), m_hat, gain), latents(expected))


def test_each_of_several_targets_has_the_gain_of_one():
    m_hat = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64) / 8
    assert torch.equal(hold(latents(0), latents(1), m_hat, 2.0, targets=3), hold(latents(0), latents(1), m_hat, 6.0))


def test_the_latents_keep_their_type():
    x = hold(latents(0).bfloat16(), latents(1).bfloat16(), torch.rand(2, 4, 5), 2.0)
    assert x.dtype == torch.bfloat16


def test_the_running_map_forgets_by_its_smoothing():
    maps = torch.rand(4, 2, 3, 3, dtype=torch.float64)
    m = None
    for new in maps:
        m = running_map(m, new, 0.5)
    torch.testing.assert_close(m, maps[0] / 8 + maps[1] / 8 + maps[2] / 4 + maps[3] / 2)
    assert torch.equal(running_map(maps[0], maps[1], 0.0), maps[1])
