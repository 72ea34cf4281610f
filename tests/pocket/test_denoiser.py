"""What the embedded denoiser's loss weighs."""

import pytest

from spf.pocket import denoiser


@pytest.mark.parametrize("size", [16, 32])
def test_details_count_more_and_the_whole_as_much(size):
    weights = denoiser.detail_weights(size)
    assert weights.mean() == pytest.approx(1) and weights.min() > 0
    mouth, wall = weights[int(0.55 * size), size // 2], weights[0, 0]
    assert mouth == denoiser.DETAIL_WEIGHT * wall == weights[-1, size // 2] and weights[-1, 0] == wall
    share = float((weights == mouth).float().mean())
    assert 0.2 < share < 0.3
