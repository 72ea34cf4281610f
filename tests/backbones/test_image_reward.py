"""ImageReward's network under the published names, with random weights: what it reads, looks at, and how it scales."""

import pytest
import torch

from spf.backbones import image_reward
from spf.backbones.image_reward import HEAD, ImageReward, ImageRewardNetwork, renamed
from spf.metrics import preference
from spf.metrics.base import MetricUnavailable

TINY = {"vision": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                   "image_size": 32, "patch_size": 8},
        "text": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 12,
                 "max_position_embeddings": 40, "encoder_hidden_size": 32}}
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a person hat red".split()


def published(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The file's names and shapes, written down by hand for one layer of each tower."""
    shapes = {"cls_token": (1, 1, 32), "pos_embed": (1, 17, 32), "patch_embed.proj.weight": (32, 3, 8, 8),
              "patch_embed.proj.bias": (32,), "norm.weight": (32,), "norm.bias": (32,)}
    shapes |= {f"blocks.0.{name}": shape for name, shape in {
        "norm1.weight": (32,), "norm1.bias": (32,), "norm2.weight": (32,), "norm2.bias": (32,), "attn.qkv.weight": (96, 32),
        "attn.qkv.bias": (96,), "attn.proj.weight": (32, 32), "attn.proj.bias": (32,), "mlp.fc1.weight": (64, 32),
        "mlp.fc1.bias": (64,), "mlp.fc2.weight": (32, 64), "mlp.fc2.bias": (32,)}.items()}
    shapes = {f"blip.visual_encoder.{name}": shape for name, shape in shapes.items()}
    text = {"embeddings.word_embeddings.weight": (12, 16), "embeddings.position_embeddings.weight": (40, 16),
            "embeddings.LayerNorm.weight": (16,), "embeddings.LayerNorm.bias": (16,),
            "encoder.layer.0.intermediate.dense.weight": (32, 16), "encoder.layer.0.intermediate.dense.bias": (32,),
            "encoder.layer.0.output.dense.weight": (16, 32), "encoder.layer.0.output.dense.bias": (16,),
            "encoder.layer.0.output.LayerNorm.weight": (16,), "encoder.layer.0.output.LayerNorm.bias": (16,)}
    for kind, width in (("attention", 16), ("crossattention", 32)):
        for part, size in (("self.query", 16), ("self.key", width), ("self.value", width), ("output.dense", 16)):
            text |= {f"encoder.layer.0.{kind}.{part}.weight": (16, size), f"encoder.layer.0.{kind}.{part}.bias": (16,)}
        text |= {f"encoder.layer.0.{kind}.output.LayerNorm.{value}": (16,) for value in ("weight", "bias")}
    shapes |= {f"blip.text_encoder.{name}": shape for name, shape in text.items()}
    widths = (16, *HEAD)
    for place, before, after in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        shapes |= {f"mlp.layers.{place}.weight": (after, before), f"mlp.layers.{place}.bias": (after,)}
    shapes |= {"blip.vision_proj.weight": (4, 32), "blip.temp": (1,)}  # of BLIP's pre-training, not used
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path):
    torch.save(published(torch.Generator().manual_seed(0)), tmp_path / "ImageReward.pt")
    (tmp_path / "bert-base-uncased").mkdir()
    (tmp_path / "bert-base-uncased" / "vocab.txt").write_text("\n".join(WORDS))
    return tmp_path


@pytest.fixture
def model(folder) -> ImageReward:
    return preference.image_reward_model(folder, architecture=TINY)


def pictures(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_published_names_fill_the_network():
    tensors = renamed(published(torch.Generator().manual_seed(0)))
    network = ImageRewardNetwork(TINY)
    assert tensors.keys() == network.state_dict().keys()
    assert {name: value.shape for name, value in tensors.items()} == {
        name: value.shape for name, value in network.state_dict().items()}


def test_picture_and_words_decide_and_padding_does_not(model):
    images, prompts = pictures(2), ("a red hat", "a person")
    scores = model.score(images, prompts)
    assert scores.shape == (2,) and scores.isfinite().all()
    torch.testing.assert_close(model.score(images[:1], prompts[:1])[0], scores[0])
    torch.testing.assert_close(model.score(images[:1], ("A Red HAT",))[0], scores[0])
    assert not torch.isclose(model.score(images.flip(0), prompts), scores).any(), "the picture is looked at"
    assert not torch.isclose(model.score(images, prompts[::-1]), scores).any(), "the words are read"
    model._tokenizer.enable_padding(length=20)
    torch.testing.assert_close(model.score(images, prompts), scores)


def test_the_head_is_linear_and_standardised(model):
    head, x = model.network.head, torch.randn(3, 16)
    zero = head(torch.zeros(1, 16))
    torch.testing.assert_close(head(2 * x) - zero, 2 * (head(x) - zero), rtol=1e-3, atol=1e-4)
    for layer in head:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    expected = -image_reward.MEAN / image_reward.DEVIATION
    assert model.score(pictures(1), ("a hat",)).item() == pytest.approx(expected)


@pytest.mark.parametrize("file, words", [
    ("ImageReward.pt", "ImageReward.pt does not exist .*huggingface.co/THUDM/ImageReward"),
    ("bert-base-uncased/vocab.txt", "vocab.txt does not exist .*google-bert")])
def test_a_missing_file_is_named_with_its_source(folder, file, words):
    (folder / file).unlink()
    with pytest.raises(MetricUnavailable, match=words):
        preference.image_reward_model(folder, architecture=TINY)


def test_weights_that_lack_a_tensor_are_refused(folder):
    tensors = torch.load(folder / "ImageReward.pt", weights_only=True)
    del tensors["mlp.layers.7.weight"]
    torch.save(tensors, folder / "ImageReward.pt")
    with pytest.raises(MetricUnavailable, match="head.4.weight|does not fit"):
        preference.image_reward_model(folder, architecture=TINY)
