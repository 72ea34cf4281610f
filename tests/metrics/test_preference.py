import numpy as np
import pytest
import torch

from spf.backbones.mps import MpsNetwork
from spf.metrics import preference
from spf.metrics.base import MetricUnavailable, summarise


class Brightness:
    name = "brightness"

    def score(self, images, prompts):
        assert len(images) == len(prompts)
        return images.mean(dim=(1, 2, 3))


def test_mps_is_the_mean_score_and_the_win_rate_a_softmax(make_pairs):
    pairs = make_pairs(5)
    raw, wins = preference.mps(Brightness())
    rows = raw.extractor(pairs)
    custom, original = (images.mean(dim=(1, 2, 3)).double() for images in (pairs.customized, pairs.original))
    assert summarise(raw, rows, 10).value == pytest.approx(float(custom.mean()), abs=1e-7)
    chance = torch.stack([custom, original], dim=1).softmax(dim=1)[:, 0]
    assert summarise(wins, rows, 10).value == pytest.approx(100 * float(chance.mean()), abs=1e-5)


def test_equal_scores_win_half_and_great_differences_do_not_overflow():
    assert preference.win_rate(np.zeros((3, 2))) == 0.5
    assert preference.win_rate(np.array([[1e9, 0.0]])) == pytest.approx(1)
    assert preference.win_rate(np.array([[0.0, 1e9]])) == pytest.approx(0)


def test_hps_is_the_cosine_with_the_whole_prompt(make_pairs, clip):
    pairs = make_pairs(2, size=32)
    values = preference.hps(clip, "tiny").extractor(pairs).values[:, 0]
    expected = clip.embed_images(pairs.customized) @ clip.embed_texts([pairs.prompts[0]])[0]
    np.testing.assert_allclose(values, expected.numpy(), atol=1e-6)


def test_clip_preference_is_the_scaled_cosine(make_pairs, clip):
    pairs = make_pairs(2, size=32)
    score = preference.ClipPreference(clip, "tiny").score(pairs.customized, pairs.prompts)
    cosine = clip.embed_images(pairs.customized) @ clip.embed_texts([pairs.prompts[0]])[0]
    torch.testing.assert_close(score, clip.model.logit_scale.exp() * cosine)


def test_mps_loads_from_a_file_with_the_position_ids_of_older_libraries(tmp_path, make_pairs, mps_architecture):
    torch.manual_seed(0)
    weights = MpsNetwork(mps_architecture).state_dict() | {"model.text_model.embeddings.position_ids": torch.arange(77)[None]}
    torch.save(weights, tmp_path / preference.MPS.path)
    model = preference.mps_model(tmp_path, architecture=mps_architecture)
    rows = preference.PreferenceScore(model)(make_pairs(2))
    assert rows.values.shape == (2, 2) and not any(rows.problems)


@pytest.mark.parametrize("load, file", [
    (preference.mps_model, "MPS_overall.pth"), (preference.hps_clip, "HPS_v2.1_compressed.pt")])
def test_missing_weights_are_named(tmp_path, monkeypatch, load, file):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MetricUnavailable, match=f"{file} does not exist.*https://"):
        load(tmp_path)
