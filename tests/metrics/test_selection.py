"""Filtering a picture folder by scores: what is kept is the best share, and nothing else."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spf.data.records import read_folder
from spf.data.writer import records_to_copy
from spf.errors import DataError, InvalidInput
from spf.metrics.base import MetricUnavailable
from spf.metrics.selection import Scorer, clip_scorer, filter_records, preference_scorer, score_records, select
from spf.pocket.dataset import render_folder

BRIGHTNESS = Scorer("brightness", 16, lambda images, texts: images.mean(dim=(1, 2, 3)))


@given(st.lists(st.floats(-1, 1) | st.just(math.nan), min_size=1, max_size=30), st.floats(0.01, 1))
def test_the_best_share_is_kept_in_order(scores, keep):
    rows = select(scores, keep)
    assert rows == sorted(set(rows)) and len(rows) <= math.ceil(keep * len(scores))
    left_out = [scores[row] for row in range(len(scores)) if row not in rows and math.isfinite(scores[row])]
    assert not rows or max(left_out, default=-2) <= min(scores[row] for row in rows)
    assert len(rows) == min(math.ceil(round(keep * len(scores), 9)), sum(map(math.isfinite, scores)))


@pytest.mark.parametrize("keep, count", [(0.3, 3), (0.31, 4), (1, 10), (0.001, 1)])
def test_a_share_is_rounded_up(keep, count):
    assert select([0.5] * 10, keep) == list(range(count))


def test_thresholds_act_after_the_share():
    scores, liked = [0.9, 0.8, 0.7, 0.1], [0.2, 0.6, math.nan, 0.9]
    assert select(scores, 0.75, [(liked, 0.5)]) == [1]
    assert select(scores, 1, [(liked, 0.5), ([1, 0, 1, 1], 1)]) == [3]


def test_the_score_is_the_cosine_of_picture_and_whole_text(picture_folder, clip):
    records = read_folder(picture_folder)
    texts = []
    scorer = clip_scorer(clip)
    watched = Scorer("clip", scorer.side, lambda images, given: texts.extend(given) or scorer.score(images, given))
    values = score_records(records, watched)
    assert texts == [f"{record.base_text}, a winter hat" for record in records]
    assert len(values) == 4 and all(-1 <= value <= 1 for value in values) and len(set(values)) > 1


def filter_folder(folder, out, *arguments):
    return filter_records(records_to_copy(folder, out), out, *arguments)


def test_filtering_writes_a_folder_that_trains(tmp_path):
    folder = render_folder("winter-hat", 10, tmp_path / "all", size=64)
    report = filter_folder(folder, tmp_path / "best", 0.3, BRIGHTNESS, {})
    records = read_folder(tmp_path / "best")
    assert report["kept"] == len(records) == 3 and report["pictures"] == 10
    brightness = {row["file"]: row["brightness"] for row in report["scores"]}
    assert sorted(brightness.values())[-3:] == sorted(brightness[name] for name in report["files"])
    by_name = {record.path.name: record.base_text for record in read_folder(folder)}
    assert [record.base_text for record in records] == [by_name[name] for name in report["files"]]


def test_bad_input_writes_nothing(tmp_path):
    folder = render_folder("winter-hat", 4, tmp_path / "all", size=64)
    with pytest.raises(InvalidInput, match="no picture is left .*brightness at most"):
        filter_folder(folder, tmp_path / "best", 1, BRIGHTNESS, {BRIGHTNESS: 2.0})
    with pytest.raises(DataError, match="does not exist"):
        filter_folder(tmp_path / "none", tmp_path / "best", 1, BRIGHTNESS, {})
    assert not (tmp_path / "best").exists()
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "mine.txt").touch()
    with pytest.raises(DataError, match="other files"):
        filter_folder(folder, tmp_path / "best", 1, BRIGHTNESS, {})


def test_the_pictures_that_are_chosen_from_are_never_replaced(tmp_path):
    folder = render_folder("winter-hat", 4, tmp_path / "all", size=64)
    with pytest.raises(DataError, match="--out: .* is where the pictures come from"):
        filter_folder(folder, folder, 0.3, BRIGHTNESS, {})
    assert len(read_folder(folder)) == 4


@pytest.mark.parametrize("name, words", [
    ("hps", "HPS_v2.1_compressed.pt.*huggingface.co/xswu"), ("mps", "MPS_overall.pth.*get it"),
    ("image_reward", "ImageReward.pt.*get it from https://huggingface.co/THUDM")])
def test_a_missing_judge_is_named_with_its_source(tmp_path, name, words):
    with pytest.raises(MetricUnavailable, match=words):
        preference_scorer(name, tmp_path)


def test_an_unknown_judge(tmp_path):
    with pytest.raises(InvalidInput, match="hps, mps, image_reward"):
        preference_scorer("beauty", tmp_path)
