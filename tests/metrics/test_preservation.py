import math

import numpy as np
import pytest
from PIL import Image

from spf.metrics.preservation import mean_absolute_difference, resized_map


@pytest.fixture
def pictures():
    """Two 4x2 pictures that differ by 51 of 255 in one channel of the left half."""
    a = np.zeros((2, 4, 3), np.uint8)
    b = a.copy()
    b[:, :2, 1] = 51
    return Image.fromarray(a), Image.fromarray(b)


def test_difference_is_a_share_of_the_full_range(pictures):
    a, b = pictures
    assert mean_absolute_difference(a, b) == pytest.approx(0.2 / 3 / 2)
    assert mean_absolute_difference(b, a) == mean_absolute_difference(a, b) and mean_absolute_difference(a, a) == 0
    assert mean_absolute_difference(Image.new("RGB", (3, 3), "black"), Image.new("RGB", (3, 3), "white")) == 1


def test_only_the_region_counts(pictures):
    left = np.zeros((2, 4), bool)
    left[:, :2] = True
    assert mean_absolute_difference(*pictures, left) == pytest.approx(0.2 / 3)
    assert mean_absolute_difference(*pictures, ~left) == 0
    assert math.isnan(mean_absolute_difference(*pictures, np.zeros((2, 4), bool)))


def test_a_map_is_stretched_over_the_picture():
    values = np.array([[0.0, 1.0], [0.0, 1.0]])
    large = resized_map(values, (8, 6))
    assert large.shape == (6, 8) and large.dtype == np.float32 and 0 <= large.min() and large.max() <= 1
    assert (np.diff(large, axis=1) >= 0).all() and large[0, 0] == 0 and large[0, -1] == 1
    np.testing.assert_allclose(large, large[:1].repeat(6, axis=0), atol=1e-6)
