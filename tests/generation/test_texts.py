import pytest
import torch

from spf.backbones.base import TextFeatures
from spf.generation.texts import EncodedTexts
from spf.method.phrases import join_prompt

CPU = torch.device("cpu")


class Encoder:
    def __init__(self):
        self.asked = []

    def __call__(self, prompts):
        self.asked.append(prompts)
        one = torch.full((len(prompts), 1), float(len(self.asked)))
        return TextFeatures(one, one, one, one, one, tuple(prompts))


def prompts(*targets):
    return [join_prompt("", ()), join_prompt("a man, red hair", targets)]


def test_a_group_is_encoded_once_and_known_by_content():
    encoder = Encoder()
    texts = EncodedTexts(encoder, CPU)
    first, other, again = texts(prompts()), texts(prompts("a hat")), texts(prompts())
    assert len(encoder.asked) == 2
    assert torch.equal(again.embeddings, first.embeddings) and not torch.equal(other.embeddings, first.embeddings)
    assert again.prompts == tuple(prompts())


def test_the_same_prompt_in_another_group_is_encoded_anew():
    encoder = Encoder()
    texts = EncodedTexts(encoder, CPU)
    texts(prompts())
    texts(prompts()[1:])
    assert len(encoder.asked) == 2, "what is encoded together differs by rounding from what is encoded alone"


def test_the_least_recently_used_is_left():
    encoder = Encoder()
    texts = EncodedTexts(encoder, CPU, kept=2)
    for target in "abac":
        texts(prompts(target))
    texts(prompts("a"))
    assert len(encoder.asked) == 3
    texts(prompts("b"))
    assert len(encoder.asked) == 4


def test_a_refusal_is_no_answer():
    def refuse(prompts):
        raise ValueError("too long")

    texts = EncodedTexts(refuse, CPU)
    for _ in range(2):
        with pytest.raises(ValueError, match="too long"):
            texts(prompts())
