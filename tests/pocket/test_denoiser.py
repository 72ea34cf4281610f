"""What the embedded denoiser's loss weighs, and what trains its text encoder."""

import random

import pytest
import torch
from transformers import CLIPTokenizer

from spf.config import REPOSITORY
from spf.pocket import captions, contrast, denoiser
from spf.pocket.pictures import portrait_at
from spf.pocket.pretrain import Pretraining

CPU = torch.device("cpu")


@pytest.fixture
def training(config, tmp_path, rendered_here):
    training = Pretraining(config, tmp_path / "work", CPU, minutes=60)
    assert training.run(("autoencoder", "clip"))
    return training


@pytest.mark.parametrize("size", [16, 32])
def test_details_count_more_and_the_whole_as_much(size):
    weights = denoiser.detail_weights(size)
    assert weights.mean() == pytest.approx(1) and weights.min() > 0
    mouth, wall = weights[int(0.55 * size), size // 2], weights[0, 0]
    assert mouth == denoiser.DETAIL_WEIGHT * wall == weights[-1, size // 2] and weights[-1, 0] == wall
    share = float((weights == mouth).float().mean())
    assert 0.2 < share < 0.3


def test_the_text_encoder_starts_as_the_text_tower_of_clip(training):
    network, clip = training._network(), training.clip()
    tokens = training.tokenizer(["a person, with red hair"], return_tensors="pt")
    pooled = network.text_encoder(tokens.input_ids).last_hidden_state[0, -1] @ clip.text_projection
    expected = contrast.encode_text(clip, training.tokenizer, ["a person, with red hair"])[0]
    torch.testing.assert_close(pooled / pooled.norm(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [[True, True], [True, False]])
def test_frozen_captions_train_the_unet_and_not_the_text_encoder(training, frozen):
    network, size = training._network().train(), training.config.denoiser.architecture["sample_size"]
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    ids = training.tokenizer(["a person", "a man"], padding="max_length", return_tensors="pt").input_ids
    x_t = torch.randn(2, training.config.denoiser.architecture["in_channels"], size, size)
    network(x_t, torch.tensor([10, 20]), ids, torch.tensor(frozen)).square().mean().backward()
    assert network.unet.conv_in.weight.grad.abs().sum() > 0
    moved = sum(float(p.grad.abs().sum()) for p in network.text_encoder.parameters() if p.grad is not None)
    assert (moved > 0) is (not all(frozen))


def test_unknown_words_are_in_no_caption():
    tokenizer = CLIPTokenizer.from_pretrained(REPOSITORY / "assets" / "pocket" / "tokenizer")
    portraits = [portrait_at("words", index, 0.0) for index in range(300)]
    rng = random.Random(0)
    ids = {token for portrait in portraits for _ in range(3)
           for token in tokenizer(captions.base_caption(portrait, rng)).input_ids}
    seen = {tokenizer.convert_ids_to_tokens(token) for token in ids}
    words = denoiser.unknown_words(tokenizer, [portrait_at("others", index, 0.0) for index in range(2000)])
    assert "hat" in words and not seen & {f"{word}</w>" for word in words}


def test_a_caption_goes_on_with_unknown_words():
    assert denoiser.with_unknown_words("a person", [], random.Random(0)) == "a person"
    for seed in range(20):
        text = denoiser.with_unknown_words("a person", ["hat", "turban"], random.Random(seed))
        opening, phrase = text.split(", ")
        words = phrase.removeprefix("a ").split()
        assert opening == "a person" and 1 <= len(words) <= 3 and set(words) <= {"hat", "turban"}
        assert not denoiser.with_unknown_words("", ["hat"], random.Random(seed)).startswith(",")
