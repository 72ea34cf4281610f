"""Prompt weights: what is parsed and what stays text, where the spans go, and what embeddings become."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spf.method.emphasis import emphasise, parse_emphasis, weighted_prompt, write_emphasis
from spf.method.phrases import drop_last_phrase, first_targets, join_prompt


def read(text):
    plain, spans = parse_emphasis(text)
    return plain, [(plain[span.start:span.end], round(span.weight, 4)) for span in spans]


@pytest.mark.parametrize("text, plain, spans", [
    ("a (red hat:1.3) here", "a red hat here", [("red hat", 1.3)]),
    ("(a:.5)", "a", [("a", 0.5)]),
    ("(a: 2 )", "a", [("a", 2)]),
    ("a (red) hat", "a red hat", [("red", 1.1)]),
    ("a [red] hat", "a red hat", [("red", 0.9091)]),
    ("((red:1.2) hat:1.5)", "red hat", [("red", 1.2), ("red hat", 1.5)]),
    ("((red))", "red", [("red", 1.1), ("red", 1.1)]),
    ("(red:1.2), (hat:0.8)", "red, hat", [("red", 1.2), ("hat", 0.8)]),
    (r"a \(red\) hat", "a (red) hat", []),
    (r"a (\(red\):1.2)", "a (red)", [("(red)", 1.2)]),
    (r"back\\slash \n", r"back\slash \n", []),
    ("a (red hat", "a (red hat", []),
    ("a red) hat:1.2)", "a red) hat:1.2)", []),
    ("a red hat :)", "a red hat :)", []),
    ("(a [red) hat]", "a [red hat]", [("a [red", 1.1)]),
    ("a (man: tall)", "a man: tall", [("man: tall", 1.1)]),
    ("(a:1.2:1.3)", "a:1.2", [("a:1.2", 1.3)]),
    ("(a:-1)", "a:-1", [("a:-1", 1.1)]),
    ("(a:1e9)", "a:1e9", [("a:1e9", 1.1)]),
    ("(a:1000)", "a:1000", [("a:1000", 1.1)]),
    ("12:30, f/1.8", "12:30, f/1.8", []),
    ("", "", []),
])
def test_what_is_a_weight_and_what_is_text(text, plain, spans):
    assert read(text) == (plain, spans)


@given(st.text(alphabet="ab,. :1()[]\\", max_size=20))
def test_any_text_parses_and_escaping_it_gives_it_back(text):
    plain, spans = parse_emphasis(text)
    assert all(0 <= span.start <= span.end <= len(plain) and 0 <= span.weight < 100 for span in spans)
    escaped = "".join("\\" + character if character in "\\()[]" else character for character in text)
    assert parse_emphasis(escaped) == (text, ())


def spans_of(prompt):
    return [(prompt.text[span.start:span.end], span.weight) for span in prompt.emphasis]


def test_a_weighted_prompt_is_the_plain_prompt_with_spans():
    prompt = weighted_prompt(" , a (person:1.2), (red hair.:0.5) ", ["a (hat:1.5)", "(scarf:2)"])
    plain = join_prompt("a person, red hair", ["a hat", "scarf"])
    assert (prompt.text, prompt.base, prompt.targets, prompt.phrases) == (plain.text, plain.base, plain.targets, plain.phrases)
    assert spans_of(prompt) == [("person", 1.2), ("red hair", 0.5), ("hat", 1.5), ("scarf", 2)]


def test_weights_stay_with_their_words_when_phrases_are_dropped():
    prompt = weighted_prompt("a (person:1.2), (red hair, smile:0.5), blue", ["a (hat:1.5)", "(scarf:2)"])
    shorter = drop_last_phrase(drop_last_phrase(prompt))
    assert shorter.text == "a person, red hair, a hat, scarf"
    assert spans_of(shorter) == [("person", 1.2), ("red hair", 0.5), ("hat", 1.5), ("scarf", 2)]
    one = first_targets(shorter, 1)
    assert one.text == "a person, red hair, a hat" and spans_of(one) == [("person", 1.2), ("red hair", 0.5), ("hat", 1.5)]
    none = first_targets(shorter, 0)
    assert none.text == none.base.text == "a person, red hair" and not none.targets
    assert join_prompt("a person, red hair", ()) == weighted_prompt("a person, red hair", ())


def test_blank_targets_are_left_out_with_their_weights():
    assert weighted_prompt("a", ["( :1.2)", "(b:1.3)"]).text == "a, b"
    assert spans_of(weighted_prompt("a", ["( :1.2)", "(b:1.3)"])) == [("b", 1.3)]


def test_emphasis_scales_tokens_and_keeps_the_mean_magnitude():
    embeddings = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.tensor([[1, 1.5, 1, 1, 1], [1.0] * 5], dtype=torch.float64)
    found = emphasise(embeddings, weights)
    assert torch.equal(found[1], embeddings[1]), "without weights nothing changes"
    torch.testing.assert_close(found[0].abs().mean(), embeddings[0].abs().mean())
    ratio = found[0] / embeddings[0]
    torch.testing.assert_close(ratio[1] / ratio[0], torch.full((8,), 1.5, dtype=torch.float64))
    assert not emphasise(torch.zeros(1, 2, 3), torch.tensor([[0.0, 2.0]])).any()
    assert torch.isfinite(emphasise(embeddings, torch.zeros(2, 5))).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_emphasis_keeps_the_type_of_the_embeddings(dtype):
    embeddings = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[1.0, 1.5, 1.0, 0.5]])
    found = emphasise(embeddings.to(dtype), weights)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), emphasise(embeddings, weights), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("text", [
    "a (red hat:1.3) here", "((red:1.2) hat:1.5)", "(red (hat:0.5):1.5)", r"a \(man\), (b:2)", "(a:1.2)(b:1.3)", "plain", ""])
def test_weights_are_written_as_they_are_read(text):
    plain, spans = parse_emphasis(text)
    assert write_emphasis(plain, spans) == text
    assert parse_emphasis(write_emphasis(plain, spans)) == (plain, spans)
