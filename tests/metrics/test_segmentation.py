import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spf.metrics import segmentation as seg
from spf.metrics.base import MetricUnavailable, Pairs, summarise


def boxes(*spans, side=20):
    """Masks (S, side, side), each of the rows in one span."""
    masks = np.zeros((len(spans), side, side), bool)
    for mask, (start, stop) in zip(masks, spans, strict=True):
        mask[start:stop] = True
    return masks


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10_000))
def test_matching_is_as_good_as_trying_all(rows, columns, seed):
    value = np.random.default_rng(seed).integers(0, 5, size=(rows, columns)).astype(float)
    i, j = seg.best_matching(value)
    assert len(i) == min(rows, columns) == len(set(i)) == len(set(j))
    wide = value if rows <= columns else value.T
    best = max(sum(wide[k, c] for k, c in enumerate(order)) for order in itertools.permutations(range(wide.shape[1]), len(wide)))
    assert value[i, j].sum() == pytest.approx(best)


def test_overlaps_are_shares_of_the_union():
    np.testing.assert_allclose(seg.overlaps(boxes((0, 10)), boxes((0, 10), (5, 15), (10, 20))), [[1, 1 / 3, 0]])


def test_parts_that_neither_shows_do_not_count():
    a, b = boxes((0, 10), (10, 20), (0, 0)), boxes((0, 10), (15, 20), (0, 0))
    assert seg.part_consistency(a, b) == pytest.approx((1 + 0.5) / 2)
    assert seg.part_consistency(a, a) == 1
    assert math.isnan(seg.part_consistency(a[2:], b[2:]))
    assert seg.part_consistency(boxes((0, 5)), boxes((0, 0))) == 0


def test_segments_of_equal_pictures_agree_whatever_their_order():
    masks = boxes((0, 4), (4, 11), (11, 20))
    assert seg.segment_consistency(masks, masks[::-1]) == pytest.approx(1)


def test_a_split_segment_is_penalised_by_area():
    """Half of a is cut in two: forth 10/20 + 10/20 * 1/2, back 10/20 + 5/20 * 1/2."""
    a, b = boxes((0, 10), (10, 20)), boxes((0, 10), (10, 15), (15, 20))
    assert seg.segment_consistency(a, b) == pytest.approx(((0.5 + 0.25) + (0.5 + 0.125)) / 2)
    assert seg.segment_consistency(a, b) == seg.segment_consistency(b, a)


def test_tiny_segments_are_left_out_and_nothing_is_equal_to_nothing():
    speck = np.zeros((1, 20, 20), bool)
    speck[0, 0, 0] = True
    masks = boxes((0, 10), (10, 20))
    assert seg.segment_consistency(np.concatenate([masks, speck]), masks) == 1
    assert seg.segment_consistency(speck, speck) == 1 and seg.segment_consistency(speck, masks) == 0


class Bright:
    """One part: where the picture is bright."""

    name = "bright"

    def parse(self, images):
        return (images.mean(dim=1, keepdim=True) > 0).float()

    def __call__(self, image):
        return (image.mean(dim=0, keepdim=True) > 0).numpy()


@pytest.mark.parametrize("extractor", [seg.PartConsistency(Bright()), seg.SegmentConsistency(Bright())])
def test_a_pair_without_any_segment_is_named_and_an_empty_side_is_zero(extractor):
    dark, light = torch.full((1, 3, 4, 4), -1.0), torch.ones(1, 3, 4, 4)
    pairs = Pairs(torch.cat([light, light, dark]), torch.cat([light, dark, dark]), ("t",) * 3, ("p",) * 3, ("t",) * 3,
                  (frozenset(),) * 3, np.zeros((3, 4, 4), bool))
    rows = extractor(pairs)
    assert rows.problems == ("", "", seg.NOTHING_FOUND) and rows.values[:2, 0].tolist() == [1, 0]
    summary = summarise(seg.metric(extractor), rows, 10)
    assert summary.value == 50 and summary.excluded == {seg.NOTHING_FOUND: 1}


def test_a_few_stray_pixels_are_no_part():
    masks, stray = boxes((0, 10), (0, 0)), boxes((0, 10), (0, 0))
    stray[1, 0, :1] = True  # 1 of 400
    assert seg.part_consistency(masks, stray) == 1
    stray[1, 0, :2] = True  # 0.5 %
    assert seg.part_consistency(masks, stray) == 0.5


def test_a_missing_or_empty_folder_of_sam_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(MetricUnavailable, match="sam-vit-huge does not exist.*facebook/sam-vit-huge"):
        seg.sam(tmp_path)
    (tmp_path / "sam-vit-huge").mkdir()
    with pytest.raises(MetricUnavailable, match="sam-vit-huge cannot be used"):
        seg.sam(tmp_path)
