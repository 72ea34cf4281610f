"""Shapes of equal area, which picture goes to which, and the order in which training meets them."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spf.data.batches import Examples, MixedLatents, joined, one_shape_rows, rows
from spf.data.buckets import MOST, bucket_of, counted, in_words, shapes
from spf.data.check import check_folder
from spf.data.pictures import BadPicture, crop_box, load_picture, upright_size
from spf.data.records import Record

RESOLUTIONS = [64, 96, 128, 512, 768, 1000, 1024, 2048]


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_shapes_have_about_the_area_of_the_square_and_sides_that_models_take(resolution):
    found = shapes(resolution)
    assert (resolution, resolution) in found and len(found) == len(set(found)) >= 3
    assert [shape[::-1] for shape in reversed(found)] == list(found), "as many lie as stand"
    for width, height in found:
        assert (width, height) == (resolution, resolution) or width % 16 == height % 16 == 0
        assert max(width, height) <= MOST * min(width, height)
        assert 0.85 * resolution**2 <= width * height <= resolution**2


@given(st.integers(1, 8000), st.integers(1, 8000), st.sampled_from(RESOLUTIONS))
def test_a_picture_goes_where_least_of_it_is_cut(width, height, resolution):
    def kept(shape):
        left, top, right, bottom = crop_box((width, height), "center", shape)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        return (right - left) * (bottom - top) / (width * height)

    chosen = bucket_of((width, height), resolution)
    if min(width, height) > 200:  # on small pictures whole pixels count for more than proportions
        assert kept(chosen) >= max(map(kept, shapes(resolution))) - 0.01
    assert bucket_of((height, width), resolution) == chosen[::-1] or width == height


@pytest.mark.parametrize("size, bucket", [
    ((512, 512), (128, 128)), ((3000, 2000), (160, 96)), ((3000, 4000), (112, 144)), ((1080, 1920), (96, 160)),
    ((100, 9000), (96, 160)), ((530, 512), (128, 128))])
def test_common_photographs(size, bucket):
    assert bucket_of(size, 128) == bucket


def test_a_picture_is_cut_to_its_bucket_upright(tmp_path):
    tall = Image.new("RGB", (100, 140), "lime")
    tall.paste("red", (0, 0, 100, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    tall.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "x.png", exif=exif)
    assert upright_size(tmp_path / "x.png") == (100, 140) and bucket_of((100, 140), 128) == (112, 144)
    used = load_picture(tmp_path / "x.png", (112, 144), "center")
    assert used.size == (112, 144) and used.getpixel((60, 100)) == (0, 255, 0) and used.getpixel((60, 1)) != (0, 255, 0)
    with pytest.raises(BadPicture):
        upright_size(tmp_path / "no.png")


def test_the_report_says_how_many_are_in_each(picture_set, picture, row):
    folder = picture_set(row("tall.png"), row("wide.jpg"), count=2)
    picture(7, (96, 160)).save(folder / "tall.png")
    exif = Image.Exif()
    exif[0x0112] = 8
    picture(8, (96, 160)).save(folder / "wide.jpg", exif=exif)
    report = check_folder(folder, resolution=128)
    assert report.to_dict()["buckets"] == {"96x160": 1, "144x112": 2, "160x96": 1}
    assert "With aspect_ratio_buckets: 96x160 (1), 144x112 (2), 160x96 (1)" in report.to_text()
    assert not check_folder(folder).buckets and "buckets" not in check_folder(folder).to_text()


def test_numbers_in_words():
    assert in_words(counted([(128, 128), (96, 160), (128, 128)])) == "96x160 (1), 128x128 (2)"


kinds = st.lists(st.sampled_from("abc"), min_size=1, max_size=12)


@given(st.integers(0, 2**63 - 1), st.integers(0, 500), kinds, st.integers(1, 9))
def test_a_batch_has_one_shape_and_depends_on_seed_and_step_alone(seed, step, kinds, size):
    batch = one_shape_rows(seed, step, kinds, size)
    assert len(batch) == size and len({kinds[row] for row in batch}) == 1
    one_shape_rows(seed, step + 1, kinds, size)
    assert one_shape_rows(seed, step, kinds, size) == batch


@given(st.integers(0, 2**63 - 1), kinds, st.integers(1, 5))
def test_every_picture_is_seen_equally_often(seed, kinds, size):
    """After as many steps as there are pictures, each of size B: B times each."""
    seen = Counter(row for step in range(2 * len(kinds)) for row in one_shape_rows(seed, step, kinds, size))
    assert seen == dict.fromkeys(range(len(kinds)), 2 * size)


@given(st.integers(0, 2**63 - 1), st.integers(0, 500), st.integers(1, 12), st.integers(1, 9))
def test_one_shape_is_the_order_without_buckets(seed, step, number, size):
    assert one_shape_rows(seed, step, ["a"] * number, size) == rows(seed, step, number, size)


class Texts:
    def __getitem__(self, rows):
        return self


def examples(*sizes):
    count = len(sizes)
    latents = joined([torch.full((1, *size), float(index)) for index, size in enumerate(sizes)])
    vector = torch.arange(count)[:, None].float()
    return Examples(latents, Texts(), Texts(), vector, vector, vector, tuple(Record(None, str(i), "") for i in range(count)))


def test_latents_of_several_shapes_are_a_tensor_where_they_agree():
    mixed = examples((2, 3), (3, 2), (2, 3))
    assert isinstance(mixed.latents, MixedLatents) and mixed.shapes == ((2, 3), (3, 2), (2, 3))
    assert mixed[[2, 0]].latents[:, 0, 0, 0].tolist() == [2, 0] and isinstance(mixed[[0, 1]].latents, MixedLatents)
    assert isinstance(examples((2, 3), (2, 3)).latents, torch.Tensor)


def test_the_pieces_of_a_step_share_its_shape_and_are_together_the_larger_batch():
    mixed = examples((2, 3), (3, 2), (2, 3), (3, 2), (2, 3))
    for step in range(20):
        whole = [record.base_text for record in mixed.of_step(5, step, 4).records]
        parts = [mixed.of_step(5, step, 2, part, 2) for part in range(2)]
        assert [record.base_text for part in parts for record in part.records] == whole
        assert parts[0].latents.shape == parts[1].latents.shape


def test_all_are_looked_at_once_in_pieces_of_one_shape():
    mixed = examples((2, 3), (3, 2), (2, 3), (3, 2), (2, 3))
    pieces = [[record.base_text for record in piece.records] for piece in mixed.in_batches(2)]
    assert pieces == [["0", "2"], ["4"], ["1", "3"]]
    assert [len(piece) for piece in examples(*[(2, 2)] * 5).in_batches(2)] == [2, 2, 1]
