import math

import numpy as np
import pytest

from spf.metrics.base import NOT_A_NUMBER, Metric, Rows, bootstrap_interval, mean, summarise

METRIC = Metric("m", "M", "up", extractor=None)


def test_rows_name_what_is_not_a_number_and_keep_the_given_reason():
    rows = Rows.of([[1.0, 2.0], [math.nan, 0.0], [math.inf, 1.0], [math.nan, math.nan]], ["", "", "", "no face"])
    assert rows.problems == ("", NOT_A_NUMBER, NOT_A_NUMBER, "no face")
    assert rows.usable.tolist() == [True, False, False, False]
    joined = Rows.joined([rows, Rows.of([[5.0, 6.0]])])
    assert joined.values.shape == (5, 2) and joined.problems[-1] == ""


def test_bad_rows_are_counted_by_reason_and_enter_no_number():
    rows = Rows.of([1.0, 3.0, math.nan, 100.0, 100.0], ["", "", "", "no face", "no face"])
    summary = summarise(METRIC, rows, resamples=200)
    assert summary.value == 2 and summary.pairs == 2
    assert summary.excluded == {NOT_A_NUMBER: 1, "no face": 2}
    assert 1 <= summary.low <= 2 <= summary.high <= 3


def test_too_few_pairs_give_no_number_but_the_reason():
    metric = Metric("fid", "FID", "down", None, minimum=4)
    summary = summarise(metric, Rows.of([1.0, 2.0, 3.0]), resamples=10)
    assert summary.value is None and summary.note == "needs 4 pairs and has 3" and summary.pairs == 3
    assert summarise(METRIC, Rows.of([math.nan]), 10).value is None


def test_a_statistic_that_is_not_a_number_is_said_to_be_none():
    summary = summarise(Metric("m", "M", "up", None, statistic=lambda rows: math.nan), Rows.of([1.0, 2.0]), 10)
    assert summary.value is None and summary.note == NOT_A_NUMBER


def test_scale_applies_to_the_number_and_its_interval():
    rows = Rows.of([0.0, 1.0, 1.0, 0.0])
    plain, percent = summarise(METRIC, rows, 100), summarise(Metric("m", "M", "up", None, scale=100), rows, 100)
    assert percent.value == 50
    assert (percent.low, percent.high) == pytest.approx((100 * plain.low, 100 * plain.high))


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(0).normal(3, 2, size=(400, 1))
    low, high = bootstrap_interval(values, mean, resamples=2000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.04) and high == pytest.approx(values.mean() + half, abs=0.04)
    assert bootstrap_interval(values, mean, 50, seed=1) == bootstrap_interval(values, mean, 50, seed=1)


def test_the_interval_of_a_biased_statistic_is_centred_on_it():
    """The maximum of a resample lies below that of the sample; the interval must still hold the sample's."""
    values = np.arange(50.0)[:, None]
    low, high = bootstrap_interval(values, lambda rows: float(rows.max()), resamples=400, biased=True)
    assert low < 49 < high


def test_one_value_for_all_has_an_interval_of_no_width():
    assert bootstrap_interval(np.full((9, 1), 4.0), mean, 20) == (4, 4)
