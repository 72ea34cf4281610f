import numpy as np
import pytest
import torch

from spf.metrics import attributes
from spf.metrics.base import Pairs, summarise


class Corners:
    """Reads three attributes off the first pixel's channels, and the target off the last pixel."""

    name = "corners"
    attributes = ("hair", "skin", "wall")

    def read(self, images):
        return {name: ["light" if value > 0 else "dark" for value in images[:, channel, 0, 0]]
                for channel, name in enumerate(self.attributes)}

    def target_probability(self, images, targets):
        assert len(images) == len(targets)
        return (images[:, 0, -1, -1] + 1) / 2


@pytest.fixture
def pairs():
    """Original all dark. Customized: hair light; hair and skin light; nothing; all light."""
    original = torch.full((4, 3, 2, 2), -1.0)
    customized = original.clone()
    customized[[0, 1, 3], 0, 0, 0] = 1
    customized[[1, 3], 1, 0, 0] = 1
    customized[3, 2, 0, 0] = 1
    customized[:, 0, -1, -1] = torch.tensor([1.0, 0.0, -0.02, -1.0])  # 1, 0.5, 0.49, 0
    concerned = (frozenset({"hair"}), frozenset(), frozenset({"hair", "skin"}), frozenset({"hair", "skin", "wall"}))
    return Pairs(original, customized, ("t",) * 4, ("p",) * 4, ("hat",) * 4, concerned, np.zeros((4, 2, 2), bool))


def test_only_attributes_that_the_target_does_not_concern_count(pairs):
    rows = attributes.Untouched(Corners())(pairs)
    np.testing.assert_allclose(rows.values[:3, 0], [1, 1 / 3, 1])
    assert rows.problems == ("", "", "", attributes.ALL_CONCERNED)


def test_the_target_is_shown_from_even_odds_on(pairs):
    assert attributes.Response(Corners())(pairs).values[:, 0].tolist() == [1, 1, 0, 0]


def test_a_probability_that_is_not_a_number_is_not_a_missing_target(pairs):
    class Broken(Corners):
        def target_probability(self, images, targets):
            return torch.full((len(images),), torch.nan)

    assert summarise(attributes.metrics(Broken())[1], attributes.Response(Broken())(pairs), 10).value is None


def test_every_attribute_has_its_own_column(pairs):
    columns = {metric.key: summarise(metric, metric.extractor(pairs), 10) for metric in attributes.metrics(Corners())}
    assert set(columns) == {"untouched", "response", "kept_hair", "kept_skin", "kept_wall"}
    assert columns["kept_hair"].value == 0 and columns["kept_hair"].pairs == 1
    assert columns["kept_skin"].value == 50 and columns["kept_skin"].excluded == {"the target concerns it": 2}
    assert columns["kept_wall"].value == 100
