import numpy as np
import open_clip
import pytest
import torch

from spf.metrics import clip_score
from spf.metrics.base import MetricUnavailable, summarise


def test_every_column_is_a_cosine_of_what_it_names(make_pairs, clip):
    pairs = make_pairs(3, size=32)
    columns = {metric.key: metric.extractor(pairs).values[:, 0] for metric in clip_score.metrics(clip, "tiny")}
    a, b = clip.embed_images(pairs.original), clip.embed_images(pairs.customized)
    target, prompt = clip.embed_texts([pairs.target_texts[0], pairs.prompts[0]])
    expected = {"clip_i": (a * b).sum(dim=1), "clip_t": b @ target, "clip_t_full": b @ prompt}
    for key, values in expected.items():
        np.testing.assert_allclose(columns[key], values.numpy(), atol=1e-6)


def test_equal_pictures_have_similarity_one(make_pairs, clip):
    image, *_ = clip_score.metrics(clip, "tiny")
    assert summarise(image, image.extractor(make_pairs(4, same=True, size=32)), 10).value == pytest.approx(1, abs=1e-6)


@pytest.fixture
def small_architecture(monkeypatch):
    """open_clip knows an architecture 'small'."""
    def create(name, pretrained=None):
        assert name == "small" and pretrained is None, "nothing may be downloaded"
        torch.manual_seed(0)
        vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
        return open_clip.CLIP(embed_dim=8, vision_cfg=vision,
                              text_cfg={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1})

    monkeypatch.setattr(open_clip, "create_model", create)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: open_clip.SimpleTokenizer())
    return create("small")


def test_published_weights_load_from_a_file(tmp_path, small_architecture):
    torch.save({"state_dict": small_architecture.state_dict()}, tmp_path / "file.pt")
    published = clip_score.Published("CLIP", "file.pt", "somewhere")
    loaded = clip_score.published_clip(published, "small", tmp_path, "cpu")
    images = torch.rand(2, 3, 40, 40) * 2 - 1
    assert loaded.embed_images(images).shape == (2, 8) and loaded.embed_texts(["a hat"]).shape == (1, 8)


def test_missing_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MetricUnavailable, match="CLIP-I and CLIP-T: .*open_clip_model.safetensors.*huggingface.co"):
        clip_score.vit_large(tmp_path)
