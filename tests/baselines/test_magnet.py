"""Magnet against a literal transcription, and what it must leave alone."""

import functools

import pytest
import torch
from torch.nn.functional import cosine_similarity

from spf.baselines import magnet
from spf.baselines.magnet import Magnet, concepts, nouns
from spf.config import MagnetConfig
from spf.method.phrases import join_prompt

FEW = ("hat", "cap", "shirt", "beard", "chair", "person")


@pytest.fixture(autouse=True)
def few_nouns(monkeypatch):
    """Hundreds of encoded nouns are most of the work."""
    monkeypatch.setattr(magnet, "nouns", lambda: (*FEW, "hair"))


@pytest.fixture
def full(backbone):
    return backbone.encode_prompts([join_prompt("", ()), join_prompt("a person, with red hair, smiling", ["a winter hat"])])


def literal(backbone, prompt, threshold: float, neighbours: int) -> dict[int, torch.Tensor]:
    """What is added to the embeddings of the prompt, by token: sections 2 to 6 of the method, phrase by phrase."""
    window, tokenizer = backbone.window, backbone.tokenizer

    @functools.cache
    def hidden(text):
        return backbone.encode_prompts([join_prompt(text, ())]).embeddings[0, :window].double()

    def word(text):
        return hidden(text)[len(tokenizer(text).input_ids) - 2]  # [BOS, ..., last word, EOS]

    pairs, added = [("", "person"), ("red", "hair"), ("winter", "hat")], {}
    for a, s in pairs:
        alone, end = hidden(f"{a} {s}".strip()), len(tokenizer(f"{a} {s}".strip()).input_ids) - 1
        omega = float(cosine_similarity(alone[end], alone[window - 1], dim=0))
        others = [noun for noun in (*FEW, "hair") if noun != s]
        others.sort(key=lambda noun, s=s: -float(cosine_similarity(word(noun), word(s), dim=0)))
        near = [s, *others[:neighbours - 1]]
        vector = 0
        if a:
            vector = 2.718281828459045 ** (threshold - omega) * sum(word(f"{a} {n}") - word(n) for n in near) / len(near)
        for b, other in pairs:
            if b and other != s:
                vector = vector - (1 - omega**2) * sum(word(f"{b} {n}") - word(n) for n in near) / len(near)
        text = prompt.text[:prompt.text.index(f"{a} {s}".strip()) + len(f"{a} {s}".strip())]
        added[len(tokenizer(text).input_ids) - 2] = vector
    return added


def test_the_nouns_are_read_once_for_a_subject_however_many_prompts_and_forks_ask(backbone, full, monkeypatch):
    monkeypatch.setattr(magnet, "_NEAREST", type(magnet._NEAREST)())
    first = Magnet(MagnetConfig()).text(backbone, full).embeddings
    read = []
    nearest = magnet._Words._nearest
    monkeypatch.setattr(magnet._Words, "_nearest", lambda words, *asked: read.append(asked) or nearest(words, *asked))
    assert torch.equal(Magnet(MagnetConfig()).text(backbone.fork(), full).embeddings, first) and not read
    Magnet(MagnetConfig(neighbours=2)).text(backbone, full)
    assert len(read) == len(set(read)) == 3


@pytest.mark.parametrize("family", ["unet", "mmdit"])
@pytest.mark.parametrize("threshold, neighbours", [(0.6, 3), (0.1, 1)])
def test_the_edit_is_the_literal_one(backbone, full, threshold, neighbours):
    edited = Magnet(MagnetConfig(threshold=threshold, neighbours=neighbours)).text(backbone, full)
    difference = (edited.embeddings - full.embeddings).double()
    expected = literal(backbone, full.prompts[1], threshold, neighbours)
    assert set(difference[1].abs().sum(1).nonzero().flatten().tolist()) == set(expected)
    for position, vector in expected.items():
        torch.testing.assert_close(difference[1, position], vector, rtol=1e-3, atol=1e-5)
    assert not difference[0].any(), "what guides away stays"
    for name in ("base_mask", "phrase_weights", "target_weights", "pooled"):
        assert getattr(edited, name) is getattr(full, name)


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_strength_scales_the_edit(backbone, full, strength):
    one, scaled = (Magnet(MagnetConfig(strength=s)).text(backbone, full).embeddings - full.embeddings for s in (1.0, strength))
    torch.testing.assert_close(scaled, strength * one, rtol=1e-3, atol=1e-5)


def test_strength_0_and_no_target_change_nothing(backbone, full):
    assert Magnet(MagnetConfig(strength=0)).text(backbone, full) is full
    base = backbone.encode_prompts([join_prompt("", ()), join_prompt("a person, with red hair", ())])
    assert Magnet(MagnetConfig()).text(backbone, base) is base


def test_noun_phrases_of_a_prompt():
    found = concepts(join_prompt("a photo of a person, with red curly hair, smiling, in a blue shirt", ["neon style"]))
    assert [(concept.attribute, concept.subject) for concept in found] == [
        ("", "person"), ("red curly", "hair"), ("blue", "shirt"), ("neon", "style")]
    prompt = join_prompt("a person", ["an astronaut suit"])
    assert [concept.span for concept in concepts(prompt)] == [prompt.phrases[0], prompt.targets[0]]


def test_a_phrase_inside_anothers_attribute_is_no_concept_of_its_own():
    found = concepts(join_prompt("hat, a red hat box", ["a mask"]))
    assert [concept.text for concept in found] == ["red hat box", "mask"]
    found = concepts(join_prompt("hat, a chatty person", ["a cap"]))  # letters of a word are no word
    assert [concept.text for concept in found] == ["hat", "chatty person", "cap"]


def test_the_nouns_are_many_and_single(monkeypatch):
    monkeypatch.undo()
    words = nouns()
    assert len(words) > 400 and len(set(words)) == len(words) and all(word.isalpha() and word.islower() for word in words)


def test_it_acts_on_the_customized_portrait_only(make_pair, monkeypatch):
    pictures = {}
    for name, guide in (("plain", None), ("magnet", Magnet(MagnetConfig())), ("off", Magnet(MagnetConfig(strength=0)))):
        with torch.inference_mode():
            pictures[name] = make_pair(guide).run()
    assert pictures["magnet"].original.tobytes() == pictures["plain"].original.tobytes()
    assert pictures["magnet"].customized.tobytes() != pictures["plain"].customized.tobytes()
    assert pictures["off"].customized.tobytes() == pictures["plain"].customized.tobytes()
