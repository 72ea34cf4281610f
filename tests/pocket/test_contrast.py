"""The embedded CLIP and the text encoder that is its text tower under another name."""

import math
import random

import pytest
import torch

from spf.clip import _ClipTokens
from spf.config import ComponentConfig
from spf.pocket import contrast
from spf.pocket.pictures import PictureSet, portrait_at
from spf.pocket.world import ATTRIBUTES, TARGETS

TEXTS = ["", "a", "a portrait of a person, with red hair, wearing a hoodie", "zzqj " * 80]


@pytest.fixture(scope="module")
def network(tokenizer):
    torch.manual_seed(3)
    config = ComponentConfig(
        architecture={"embed_dim": 16, "quick_gelu": False,
                      "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4, "head_width": 16},
                      "text_cfg": {"context_length": 77, "vocab_size": 999, "width": 32, "heads": 2, "layers": 2}},
        samples=4, batch_size=4, learning_rate=1e-3)
    made = contrast.build(config, tokenizer).eval()
    with torch.no_grad():
        for parameter in made.transformer.parameters():  # biases begin as zeros, which would hide a mix-up
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made


def test_the_vocabulary_is_that_of_the_tokenizer(network, tokenizer):
    assert network.token_embedding.num_embeddings == len(tokenizer)


@torch.no_grad()
def test_the_conditioning_text_encoder_gives_the_hidden_states_of_open_clip(network, tokenizer):
    ids = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    x = network.transformer(network.token_embedding(ids) + network.positional_embedding, attn_mask=network.attn_mask)
    encoder = contrast.conditioning_text_encoder(network, tokenizer)
    torch.testing.assert_close(encoder(ids).last_hidden_state, network.ln_final(x), rtol=1e-4, atol=1e-5)
    assert not encoder.training


@torch.no_grad()
def test_short_texts_are_encoded_as_open_clip_does_at_full_length(network, tokenizer):
    expected = network.encode_text(_ClipTokens(tokenizer)(TEXTS), normalize=True)
    torch.testing.assert_close(contrast.encode_text(network, tokenizer, TEXTS), expected, rtol=1e-4, atol=1e-5)
    for text, row in zip(TEXTS, expected, strict=True):
        torch.testing.assert_close(contrast.encode_text(network, tokenizer, [text])[0], row, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_value_has_a_prompt_of_its_own(attribute):
    prompts = contrast.attribute_prompts(attribute, "a drawing of a person")
    assert len(set(prompts)) == len(prompts) == len(ATTRIBUTES[attribute])
    assert all(prompt.startswith("a drawing of a person, ") and prompt.count(",") == 1 for prompt in prompts)
    for value, prompt in zip(ATTRIBUTES[attribute], prompts, strict=True):
        assert (value if value != "none" else "without") in prompt.replace("v-neck shirt", "v-neck")


def test_target_prompts_end_with_none():
    prompts = contrast.attribute_prompts("target")
    assert prompts[:-1] == [f"a person, {target.phrase}" for target in TARGETS.values()] and prompts[-1] == "a person"


def test_labels_are_the_truth_and_hidden_attributes_are_not_asked():
    for index in range(200):
        portrait = portrait_at("labels", index, 0.7)
        for attribute, options in ATTRIBUTES.items():
            label = contrast._label(portrait, attribute)
            if portrait.target and attribute in TARGETS[portrait.target].hides:
                assert label == -100
            else:
                assert options[label] == portrait.value(attribute)
        assert [*TARGETS, None][contrast._label(portrait, "target")] == portrait.target


def test_the_loss_is_a_function_of_step_and_seed_and_reaches_both_towers(network, tokenizer):
    portraits = [portrait_at(0, index, 0.5) for index in range(8)]
    pixels = torch.randint(0, 255, (8, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    config = ComponentConfig(architecture={}, samples=4, batch_size=4, learning_rate=1e-3)
    made = contrast.component(network, tokenizer, PictureSet(portraits, pixels), config, torch.device("cpu"))

    def loss(step, seed):
        return made.loss(step, torch.Generator().manual_seed(seed))[0]

    first = loss(0, 0)
    assert first == loss(0, 0) and first != loss(1, 0) and first != loss(0, 1)
    first.backward()
    for tower in (network.visual, network.transformer):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in tower.parameters())
    network.zero_grad(set_to_none=True)


def test_captions_of_the_contrast_name_the_target(network, tokenizer, monkeypatch):
    seen = []
    encode = contrast.encode_text
    monkeypatch.setattr(contrast, "encode_text", lambda n, t, texts: seen.append(texts) or encode(n, t, texts))
    portraits = [portrait_at(0, index, 1.0) for index in range(3)]
    contrast._contrast(network, tokenizer, torch.randn(3, 16), portraits, torch.tensor(1.0), random.Random(0))
    for portrait, text in zip(portraits, seen[0], strict=True):
        assert text.split(", ")[-1] in TARGETS[portrait.target].phrases


def test_words_are_told_apart_without_pictures():
    """What lets the picture tower begin to learn a small detail: the words for it must not mean the same."""
    apart = {"expression": torch.eye(4, 16)}
    same = {"expression": torch.eye(4, 16)[:1].expand(4, 16)}
    scale = torch.tensor(30.0)
    assert contrast._words(apart, apart, scale) < 1e-6
    assert contrast._words(same, same, scale) == pytest.approx(math.log(4))
    swapped = {"expression": apart["expression"].roll(1, dims=0)}
    assert contrast._words(apart, swapped, scale) > 29


def test_prompts_of_an_attribute_keep_together(network, tokenizer):
    features = contrast._prompt_features(network, tokenizer, "a person")
    assert {name: len(rows) for name, rows in features.items()} == {
        **{name: len(options) for name, options in ATTRIBUTES.items()}, "target": len(TARGETS) + 1}
    expected = contrast.encode_text(network, tokenizer, contrast.attribute_prompts("glasses"))
    torch.testing.assert_close(features["glasses"], expected, rtol=1e-4, atol=1e-5)
