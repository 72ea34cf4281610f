"""The curve of scores that pre-training keeps."""

from types import SimpleNamespace

import pytest
import torch

from spf.pocket import curve

CPU = torch.device("cpu")


def test_points_are_kept_in_order(tmp_path):
    assert curve.points(tmp_path) == []
    for samples in (8, 16):
        point = curve.append(tmp_path, "clip", samples, {"mean": 1 / 3})
    assert point == {"part": "clip", "samples": 16, "mean": 0.3333}
    assert [point["samples"] for point in curve.points(tmp_path)] == [8, 16]


@pytest.mark.parametrize("error, decibels", [(0.2, 20), (0.02, 40)])
def test_an_autoencoder_that_is_wrong_by_a_known_amount(monkeypatch, error, decibels):
    monkeypatch.setattr(curve, "_rendered", lambda count, size, device: ([], torch.zeros(3, 3, size, size)))
    shifted = SimpleNamespace(encode=lambda images: SimpleNamespace(latents=images),
                              decode=lambda latents: SimpleNamespace(sample=latents + error))
    assert curve.autoencoder_scores(shifted, 8, CPU)["psnr_db"] == pytest.approx(decibels, abs=1e-3)


def test_a_model_is_read_by_the_recogniser(tiny, monkeypatch):
    monkeypatch.setattr(curve, "CAPTIONS", 2)
    scores = curve.denoiser_scores(tiny, CPU)
    assert scores == curve.denoiser_scores(tiny, CPU), "the same weights have the same scores"
    assert 0 <= scores["mean"] <= 1 and "hair_color" in scores
