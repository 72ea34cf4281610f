"""load_picture: every kind of picture becomes upright square RGB, and to_array its numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spf.data.pictures import BadPicture, crop_box, inspect_picture, load_picture, load_whole, to_array
from spf.errors import DataError


def quarters(size: int = 64) -> Image.Image:
    """Red, green / blue, white."""
    picture = Image.new("RGB", (size, size), "white")
    half = size // 2
    for box, color in (((0, 0), "red"), ((half, 0), "lime"), ((0, half), "blue")):
        picture.paste(color, (*box, box[0] + half, box[1] + half))
    return picture


def near(picture: Image.Image, point: tuple[int, int], color: tuple[int, int, int], tolerance: int = 12) -> bool:
    return bool(np.abs(np.subtract(picture.getpixel(point), color)).max() <= tolerance)


def test_the_same_size_keeps_every_pixel(tmp_path, picture):
    picture(1, (64, 64)).save(tmp_path / "x.png")
    loaded = load_picture(tmp_path / "x.png", 64)
    assert loaded.mode == "RGB" and loaded.tobytes() == picture(1, (64, 64)).tobytes()


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (101, 100), (64, 64), (65, 2000)])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_centre_square_is_kept(tmp_path, size, suffix):
    picture = Image.new("RGB", size, "blue")
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    picture.paste("red", (left, top, left + side, top + side))
    picture.save(tmp_path / f"x{suffix}")
    loaded = load_picture(tmp_path / f"x{suffix}", 32)
    assert loaded.size == (32, 32)
    assert near(loaded, (16, 16), (255, 0, 0)) and near(loaded, (2, 2), (255, 0, 0), 60)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, suffix, orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = quarters(512).transpose(undo[orientation]) if orientation in undo else quarters(512)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"x{suffix}", exif=exif, lossless=True)
    loaded = load_picture(tmp_path / f"x{suffix}", 64)
    corners = {(16, 16): (255, 0, 0), (48, 16): (0, 255, 0), (16, 48): (0, 0, 255)}
    assert all(near(loaded, point, color) for point, color in corners.items())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_matter(tmp_path):
    quarters().save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    assert near(load_picture(tmp_path / "x.jpg", 64), (16, 16), (255, 0, 0))
    inspect_picture(tmp_path / "x.jpg")


def transparent(mode: str) -> Image.Image:
    picture = quarters().convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 32, 32))  # what was red shows white
    if mode == "P":
        return picture.quantize(8)
    return picture.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
@pytest.mark.parametrize("resolution", [32, 64])
def test_alpha_is_laid_over_white(tmp_path, mode, resolution):
    transparent(mode).save(tmp_path / "x.png")
    loaded = load_picture(tmp_path / "x.png", resolution)
    assert loaded.mode == "RGB" and near(loaded, (resolution // 4, resolution // 4), (255, 255, 255), 2)
    if mode != "LA":
        assert near(loaded, (resolution // 4, resolution * 3 // 4), (0, 0, 255))


def test_half_transparent_colour(tmp_path):
    Image.new("RGBA", (64, 64), (255, 0, 0, 128)).save(tmp_path / "x.webp", lossless=True)
    assert near(load_picture(tmp_path / "x.webp", 64), (5, 5), (255, 127, 127), 2)


def test_a_colour_declared_transparent(tmp_path):
    quarters().save(tmp_path / "x.png", transparency=(255, 0, 0))
    assert near(load_picture(tmp_path / "x.png", 64), (16, 16), (255, 255, 255), 2)


def test_sixteen_bits_of_grey_keep_their_range(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "x.png")
    loaded = np.asarray(load_picture(tmp_path / "x.png", 64))
    np.testing.assert_array_equal(loaded[..., 1], ramp >> 8)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_modes(tmp_path, mode):
    name = "x.jpg" if mode == "CMYK" else "x.png"
    quarters().convert(mode).save(tmp_path / name)
    loaded = load_picture(tmp_path / name, 64)
    assert loaded.mode == "RGB" and near(loaded, (48, 48), (255, 255, 255))
    if mode in ("P", "CMYK"):
        assert near(loaded, (16, 48), (0, 0, 255), 30)


def test_reduced_decoding_of_large_jpegs_looks_the_same(tmp_path):
    quarters(1600).save(tmp_path / "x.jpg", quality=95)
    quarters(1600).save(tmp_path / "x.png")
    jpeg, png = (np.asarray(load_picture(tmp_path / name, 64), int) for name in ("x.jpg", "x.png"))
    assert np.abs(jpeg - png).mean() < 2


@pytest.mark.parametrize("size, crop, box", [
    ((100, 100), "center", (0, 0, 100, 100)), ((100, 100), "portrait", (0, 0, 100, 100)),
    ((300, 100), "center", (100, 0, 200, 100)), ((300, 100), "portrait", (100, 0, 200, 100)),
    ((100, 300), "center", (0, 100, 100, 200)), ((100, 300), "portrait", (0, 30, 100, 130)),
    ((101, 100), "center", (0, 0, 100, 100)), ((100, 101), "center", (0, 0, 100, 100)),
    ((100, 101), "portrait", (0, 0, 100, 100)), ((1, 1), "portrait", (0, 0, 1, 1)),
])
def test_crop_boxes(size, crop, box):
    assert crop_box(size, crop) == box


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from(["center", "portrait"]))
def test_a_crop_is_the_largest_square_inside(width, height, crop):
    left, top, right, bottom = crop_box((width, height), crop)
    assert right - left == bottom - top == min(width, height)
    assert 0 <= left and right <= width and 0 <= top and bottom <= height
    assert top <= crop_box((width, height), "center")[1]


@pytest.mark.parametrize("orientation", [1, 6, 8])
@pytest.mark.parametrize("crop, color", [("center", (0, 255, 0)), ("portrait", (255, 0, 0))])
def test_the_crop_of_the_upright_picture_is_the_square_that_is_trained_on(tmp_path, orientation, crop, color):
    """A tall picture, red where a head would be and green in the middle, stored upright or on its side."""
    tall = Image.new("RGB", (100, 400), "white")
    tall.paste("red", (0, 45, 100, 145))
    tall.paste("lime", (0, 150, 100, 250))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = tall.transpose(turn[orientation]) if orientation in turn else tall
    stored.save(tmp_path / "x.png", exif=exif)
    shown = load_whole(tmp_path / "x.png", 512)
    box = crop_box(shown.size, crop)
    used = load_picture(tmp_path / "x.png", 100, crop)
    assert shown.size == (100, 400) and shown.crop(box).tobytes() == used.tobytes()
    assert near(used, (50, 50), color, 2) and near(used, (50, 95), color, 2) and near(used, (50, 5), color, 2)


def test_load_whole_keeps_the_shape_and_only_shrinks(tmp_path, picture):
    picture(1, (300, 200)).save(tmp_path / "x.png")
    assert load_whole(tmp_path / "x.png", 100).size == (150, 100)
    assert load_whole(tmp_path / "x.png", 1000).tobytes() == picture(1, (300, 200)).tobytes()
    with pytest.raises(BadPicture, match="300x200"):
        load_whole(tmp_path / "x.png", 100, minimum_size=201)


@pytest.mark.parametrize("content, kind", [(b"", "corrupt"), (b"text", "not-a-picture"), (None, "missing-file")])
def test_a_bad_file_is_a_data_error_that_names_it(tmp_path, content, kind):
    if content is not None:
        (tmp_path / "my hat.png").write_bytes(content)
    with pytest.raises(DataError, match=r"my hat\.png: ") as caught:
        load_picture(tmp_path / "my hat.png", 64)
    assert caught.value.kind == kind


def test_to_array(picture):
    image = Image.new("RGB", (3, 2), (0, 255, 51))
    array = to_array(image)
    assert array.shape == (3, 2, 3) and array.dtype == np.float32 and array.flags.c_contiguous
    np.testing.assert_allclose(array[:, 1, 2], [-1, 1, -0.6], atol=1e-6)
