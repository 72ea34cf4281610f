import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spf.metrics import identity
from spf.metrics.base import MetricUnavailable, Pairs, summarise


class Faces:
    """Embeds the mean colour; no face in a picture that is all black."""

    name = "mean colour"

    def __call__(self, images):
        means = images.mean(dim=(2, 3))
        return torch.where((images == -1).all(dim=(1, 2, 3))[:, None], torch.nan, means)


def pairs_of(original, customized):
    count = len(original)
    return Pairs(original, customized, ("t",) * count, ("p",) * count, ("t",) * count, (frozenset(),) * count,
                 np.zeros((count, 2, 2), bool))


def plain(*colours):
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, 2, 2)


def test_cosine_of_embeddings_by_hand():
    a, b = plain([1.0, 0, 0], [0.5, 0.5, 0]), plain([0.0, 1, 0], [1.0, 1, 0])
    rows = identity.Identity(Faces())(pairs_of(a, b))
    np.testing.assert_allclose(rows.values[:, 0], [0, 1], atol=1e-7)


def test_a_pair_without_a_face_is_named_and_counted_and_not_scored():
    black, white = [-1.0] * 3, [1.0] * 3
    pairs = pairs_of(plain(white, black, white, black), plain(white, white, black, black))
    rows = identity.Identity(Faces())(pairs)
    assert rows.problems == (
        "", "no face in the original", "no face in the customized portrait", "no face in either picture")
    summary = summarise(identity.metric(Faces()), rows, 10)
    assert summary.value == pytest.approx(1) and summary.pairs == 1 and sum(summary.excluded.values()) == 3
    assert all(math.isnan(value) for value in rows.values[1:, 0])


def test_the_package_that_runs_the_published_models_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MetricUnavailable, match="opencv-python-headless"):
        identity.SFace(tmp_path)


@pytest.fixture
def opencv(monkeypatch):
    """What SFace needs of OpenCV: faces are (x, y, width, height), an aligned face is cut out, its feature its mean BGR."""
    class Detector:
        def setInputSize(self, size):
            self.size = size

        def detect(self, bgr):
            assert self.size == (bgr.shape[1], bgr.shape[0])
            return 0, None if not bgr.any() else np.array([[0, 0, 1, 1], [1, 0, 3, 4]])

    recogniser = SimpleNamespace(
        alignCrop=lambda bgr, face: bgr[face[1]:face[1] + face[3], face[0]:face[0] + face[2]],
        feature=lambda crop: np.repeat(crop.mean(axis=(0, 1)), 43)[None, :128].astype(np.float32))
    made = SimpleNamespace(FaceDetectorYN=SimpleNamespace(create=lambda path, config, size: Detector()),
                           FaceRecognizerSF=SimpleNamespace(create=lambda path, config: recogniser))
    monkeypatch.setitem(sys.modules, "cv2", made)


def test_missing_models_are_named_with_their_licence(tmp_path, opencv, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MetricUnavailable, match="yunet.*opencv_zoo.*MIT"):
        identity.SFace(tmp_path)


def test_the_largest_face_is_embedded_in_bgr(tmp_path, opencv):
    for published in (identity.DETECTOR, identity.RECOGNISER):
        (tmp_path / published.path).touch()
    picture = torch.full((1, 3, 4, 4), -1.0)
    picture[0, 0, :, 1:] = 1  # red, where the larger face is
    embeddings = identity.SFace(tmp_path)(torch.cat([picture, torch.full((1, 3, 4, 4), -1.0)]))
    assert embeddings.shape == (2, 128) and embeddings[1].isnan().all()
    assert embeddings[0, 0] == 0 and embeddings[0, 127] == 255  # blue first, red last
