"""Captions that training never saw, and what counts as right in pictures of them."""

import math
from collections import Counter

import pytest
import torch

from spf.backbones.checkpoints import load_backbone
from spf.method.phrases import join_prompt
from spf.pocket import held_out, pictures
from spf.pocket.world import ATTRIBUTES


@pytest.fixture
def portraits():
    return [pictures.portrait_at(held_out.HELD_OUT, index, 0.0) for index in range(60)]


def test_named_attributes_count_where_they_are_named(portraits):
    everything, nothing = [set(ATTRIBUTES)] * 60, [set()] * 60
    read = {name: [portrait.value(name) for portrait in portraits] for name in ATTRIBUTES}
    assert held_out.named_right(read, portraits, everything) == dict.fromkeys(ATTRIBUTES, 1.0)
    read["glasses"] = ["none"] * 60
    share = Counter(portrait.glasses for portrait in portraits)["none"] / 60
    assert held_out.named_right(read, portraits, everything)["glasses"] == pytest.approx(share) and 0.3 < share < 0.7
    only_first = [{"glasses"}, *nothing[1:]]
    assert held_out.named_right(read, portraits, only_first)["glasses"] == (portraits[0].glasses == "none")
    assert math.isnan(held_out.named_right(read, portraits, nothing)["glasses"])


def test_captions_name_what_they_are_counted_for(portraits):
    texts, named = held_out.held_out_captions(portraits)
    for portrait, text, names in zip(portraits, texts, named, strict=True):
        assert ("skin" in text) == ("skin_tone" in names)
        assert (portrait.expression in text) == ("expression" in names)
    assert 0.4 < sum(map(len, named)) / (60 * len(ATTRIBUTES)) < 0.8


def test_samples_depend_on_their_own_seed_and_text_only(tiny):
    backbone = load_backbone(tiny)
    prompts = [join_prompt(text, ()) for text in ("a person", "a man, smiling", "a person, with red hair")]
    together = held_out.sample(backbone, tiny, prompts, seeds=[4, 5, 6], batch=2)
    assert together.shape == (3, 3, 64, 64) and together.abs().max() <= 1
    alone = held_out.sample(backbone, tiny, prompts[2:], seeds=[6])
    torch.testing.assert_close(together[2:], alone, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=0.01) and math.isfinite(float(together.sum()))
