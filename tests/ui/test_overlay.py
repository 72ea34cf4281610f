"""Maps as pictures."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from spf.ui import overlay


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB values (..., 3) in [0, 1]."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def test_a_higher_value_is_always_a_lighter_color():
    steps = np.diff(lightness(overlay.colors(np.linspace(0, 1, 101))))
    assert (steps > 0.2).all()


def test_the_scale_runs_from_dark_violet_to_yellow():
    dark, light = overlay.colors(np.array([0.0, 1.0])) * 255
    np.testing.assert_allclose(dark, (68, 1, 84), atol=8)
    np.testing.assert_allclose(light, (253, 231, 37), atol=8)


def test_values_outside_the_scale_take_the_color_of_its_ends():
    np.testing.assert_array_equal(overlay.colors(np.array([-3.0, 7.0])), overlay.colors(np.array([0.0, 1.0])))


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))


@pytest.fixture
def values() -> np.ndarray:
    return np.linspace(0, 1, 8 * 12).reshape(8, 12)


def test_opacity_goes_from_the_picture_to_the_map_alone(picture, values):
    none, half, full = (np.asarray(overlay.blend(picture, values, opacity), float) for opacity in (0, 0.5, 1))
    np.testing.assert_array_equal(none, np.asarray(picture))
    np.testing.assert_allclose(half, (none + full) / 2, atol=1)
    assert len(np.unique(full.reshape(-1, 3), axis=0)) > 50


def test_the_overlay_has_the_size_of_the_picture_and_keeps_the_maps_orientation(picture):
    values = np.zeros((4, 4))
    values[:2, :2] = 1  # upper left
    drawn = np.asarray(overlay.blend(picture, values, 1.0), float).mean(axis=2)
    assert drawn.shape == (32, 48)
    assert drawn[:8, :12].mean() > 2 * drawn[-8:, -12:].mean()


def test_a_gray_picture_can_be_drawn_on(values):
    assert overlay.blend(Image.new("L", (16, 16), 128), values, 0.5).mode == "RGB"


@pytest.mark.parametrize(("value", "expected"), [(np.nan, "nan"), (np.inf, "nan"), (0.0, "empty"), (0.2, None)])
def test_what_cannot_be_shown_is_named(value, expected):
    values = np.zeros((4, 4))
    values[1, 2] = value
    assert overlay.trouble(values) == expected


def test_the_legend_shows_every_color_from_left_to_right():
    row = np.asarray(overlay.legend(256, 3))[1] / 255
    np.testing.assert_allclose(row, overlay.colors(np.linspace(0, 1, 256)), atol=1 / 255)


def test_a_data_uri_holds_the_picture(picture):
    head, data = overlay.data_uri(picture).split(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), np.asarray(picture))
