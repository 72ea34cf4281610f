import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from spf.metrics.base import summarise
from spf.metrics.pixels import mean_absolute_difference, resized_map
from spf.metrics.preservation import NO_OUTSIDE, FeaturePollution, PixelPollution, metrics


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


def test_pollution_counts_only_outside_the_region(make_pairs):
    pairs = make_pairs(3)
    values = PixelPollution()(pairs).values[:, 0]
    half = pairs.original.shape[-2] // 2
    expected = (pairs.original - pairs.customized)[:, :, half:].abs().mean(dim=(1, 2, 3)) / 2
    np.testing.assert_allclose(values, expected.numpy(), rtol=1e-5)
    inside = replace(pairs, customized=torch.cat([pairs.customized[:, :, :half], pairs.original[:, :, half:]], dim=2))
    assert PixelPollution()(inside).values.max() == 0


class Layers:
    name = "two grids"

    def __call__(self, images):
        return [images, torch.nn.functional.avg_pool2d(images, 4)]


def test_feature_pollution_is_one_minus_cosine_outside_the_region(make_pairs):
    pairs = make_pairs(2)
    measured = FeaturePollution(Layers())(pairs).values[:, 0]
    expected = np.zeros(2)
    for a, b in zip(Layers()(pairs.original), Layers()(pairs.customized), strict=True):
        expected += (1 - torch.cosine_similarity(a, b, dim=1))[:, a.shape[2] // 2:].mean(dim=(1, 2)).numpy()
    np.testing.assert_allclose(measured, expected, rtol=1e-5)


def test_a_region_that_is_everything_leaves_nothing_to_measure_and_says_so(make_pairs):
    pairs = make_pairs(2)
    pairs.regions[1] = True
    for metric in metrics(Layers()):
        rows = metric.extractor(pairs)
        assert rows.problems == ("", NO_OUTSIDE) and summarise(metric, rows, 10).excluded == {NO_OUTSIDE: 1}
