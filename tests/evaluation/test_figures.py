import numpy as np
import pytest

from spf.evaluation import figures
from spf.evaluation.figures import Curve


def picture(red):
    return np.full((20, 30, 3), [red, 0, 0], np.uint8)


def test_a_sheet_holds_every_picture_in_its_row_and_column():
    image = np.asarray(figures.sheet([[picture(10), picture(20)], [picture(30), picture(40)]], ["a", "b"], ["one", "two"]))
    for red in (10, 20, 30, 40):
        rows, columns = np.nonzero((image == [red, 0, 0]).all(axis=2))
        assert len(rows) == 20 * 30 and rows.max() - rows.min() == 19 and columns.max() - columns.min() == 29
    place = {red: np.argwhere((image == [red, 0, 0]).all(axis=2))[0] for red in (10, 20, 30, 40)}
    assert place[10][0] == place[20][0] < place[30][0] and place[10][1] == place[30][1] < place[20][1]


def test_long_titles_are_wrapped_and_make_room():
    short = figures.sheet([[picture(1)]], ["a"], ["b"])
    long = figures.sheet([[picture(1)]], ["several words in a title"], ["b"])
    assert long.width == short.width and long.height > short.height


def pixels_of(image, colour):
    return np.argwhere((np.asarray(image) == colour).all(axis=2))


def test_a_curve_rises_where_its_values_do():
    image = figures.plot("lambda", [0, 1, 2], [Curve("FID", [1.0, 2.0, 3.0], [None] * 3, [None] * 3)])
    found = pixels_of(image, figures.COLOURS[0])
    left, right = found[found[:, 1] < 150, 0].mean(), found[found[:, 1] > 350, 0].mean()
    assert right < left  # rows count downwards


@pytest.mark.parametrize("values", [[None, None], [1.0, None], [0.0, 0.0], [5.0, 5.0]])
def test_missing_and_equal_values_can_be_drawn(values):
    image = figures.plot("lambda", [0.1, 0.2], [Curve("FID", values, values, values), Curve("Response", [1, 2], [0, 1], [2, 3])])
    assert image.size == (440, 460)
    assert bool(len(pixels_of(image, figures.COLOURS[0]))) == any(value is not None for value in values)
