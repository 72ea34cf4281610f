"""Which tokens belong to what, for prompts whose words repeat."""

import logging

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spf.backbones.tokens import Reader, fit, tokenize
from spf.errors import InvalidInput
from spf.method.emphasis import weighted_prompt
from spf.method.phrases import join_prompt

# the tokenizer is shared by all examples, which do not change it
shared = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

WORDS = st.sampled_from(["red", "hat", "hair", "a", "blue", "winter", "caf\u00e9", "x-ray", "3.5", "V*", "\U0001f60a", "zzqj"])
TEXT = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
BASES = st.tuples(st.lists(TEXT, min_size=1, max_size=5), st.sampled_from([", ", " with ", "; ", ". "])).map(
    lambda parts: parts[1].join(parts[0]))
PROMPTS = st.builds(join_prompt, BASES, st.lists(TEXT, max_size=3))


def reader(tokenizer) -> Reader:
    return Reader(tokenizer, tokenizer.model_max_length)


def read_back(tokenizer, ids, member) -> str:
    """The text of the tokens where `member` is not zero, without spaces."""
    kept = [int(i) for i, m in zip(ids, member, strict=True) if m]
    return tokenizer.decode(kept).replace(" ", "")


def plain(text: str) -> str:
    return text.lower().replace(" ", "")


@shared
@given(prompts=st.lists(PROMPTS, min_size=1, max_size=3))
def test_every_phrase_and_target_gets_exactly_its_own_tokens(tokenizer, prompts):
    tokens = tokenize(reader(tokenizer), prompts)
    for row, prompt in enumerate(prompts):
        ids = tokens.ids[row]
        for weights, phrases in ((tokens.phrase_weights[row], prompt.phrases), (tokens.target_weights[row], prompt.targets)):
            for column, phrase in enumerate(phrases):
                member = weights[:, column]
                assert read_back(tokenizer, ids, member) == plain(phrase.text)
                assert member.sum() == pytest.approx(1) and len(set(member[member > 0].tolist())) == 1
            assert not weights[:, len(phrases):].any(), "columns of longer prompts stay empty"
        members = torch.cat([tokens.phrase_weights[row], tokens.target_weights[row]], dim=1) > 0
        assert members.sum(1).max() <= 1, "no token belongs to two phrases, although words repeat"


@shared
@given(prompts=st.lists(PROMPTS, min_size=1, max_size=3))
def test_the_base_mask_marks_the_base_text_and_nothing_else(tokenizer, prompts):
    tokens = tokenize(reader(tokenizer), prompts)
    for row, prompt in enumerate(prompts):
        mask, ids = tokens.base_mask[row], tokens.ids[row]
        assert read_back(tokenizer, ids, mask) == plain(prompt.base.text)
        assert not (mask * tokens.target_weights[row].sum(-1)).any() and not (mask * tokens.pad_mask[row]).any()
        words = len(tokenizer(prompt.text).input_ids)
        assert tokens.pad_mask[row].tolist() == [0.0] * words + [1.0] * (tokenizer.model_max_length - words)
        assert not mask[0] and not mask[words - 1], "the start and end tokens are no words"


@shared
@given(prompt=PROMPTS)
def test_the_ids_of_the_base_are_a_prefix_of_those_of_the_prompt(tokenizer, prompt):
    """D3: then base tokens sit at the same positions in both paths."""
    full, base = tokenize(reader(tokenizer), [prompt]), tokenize(reader(tokenizer), [join_prompt(prompt.base.text, ())])
    words = len(tokenizer(prompt.base.text).input_ids) - 1  # without the end token
    assert full.ids[0, :words].tolist() == base.ids[0, :words].tolist()
    assert torch.equal(full.base_mask, base.base_mask)


@pytest.mark.parametrize("base", ["a woman!", "a man (tall)", "portrait.,", "her name is Ann's", "rock & roll", "a man?!,. "])
def test_punctuation_at_the_seam_does_not_merge(tokenizer, base):
    prompt = join_prompt(base, ["a hat"])
    full, alone = tokenize(reader(tokenizer), [prompt]), tokenize(reader(tokenizer), [join_prompt(prompt.base.text, ())])
    assert torch.equal(full.base_mask, alone.base_mask)
    masked = full.base_mask.bool()
    assert full.ids[masked].tolist() == alone.ids[masked].tolist()


def test_too_many_base_phrases_are_dropped_from_the_end_and_logged(tokenizer, caplog):
    phrases = [f"a zzqj{i} hat" for i in range(30)]
    prompt = join_prompt(", ".join(phrases), ["a long turban", "a blue eyepatch"])
    with caplog.at_level(logging.WARNING):
        fitted = fit(prompt, reader(tokenizer))
    kept = len(fitted.phrases)
    assert 0 < kept < 30 and [phrase.text for phrase in fitted.phrases] == phrases[:kept]
    assert [target.text for target in fitted.targets] == ["a long turban", "a blue eyepatch"]
    assert fitted.text.startswith(fitted.base.text) and prompt.base.text.startswith(fitted.base.text)
    assert phrases[kept] in caplog.text and phrases[kept - 1] not in caplog.text
    one_more = join_prompt(", ".join(phrases[:kept + 1]), ["a long turban", "a blue eyepatch"])
    assert len(tokenizer(fitted.text).input_ids) <= tokenizer.model_max_length < len(tokenizer(one_more.text).input_ids)


def test_a_prompt_that_fits_is_left_alone_in_silence(tokenizer, caplog):
    prompt = join_prompt("a person, with red hair", ["a hat"])
    assert fit(prompt, reader(tokenizer)) is prompt
    assert not caplog.records


@pytest.mark.parametrize("base, target, field", [
    ("a person, with red hair", "zzqj " * 60, "target_texts"),
    ("zzqj " * 60, "a hat", "base_text"),
    ("zzqj " * 60, "", "base_text"),
    ("", "zzqj " * 60, "target_texts"),
])
def test_what_alone_is_too_long_is_refused_by_name(tokenizer, base, target, field):
    with pytest.raises(InvalidInput, match="shorten") as caught:
        fit(join_prompt(base, [target]), reader(tokenizer))
    assert caught.value.field == field and str(tokenizer.model_max_length) in str(caught.value)


def test_a_prompt_of_exactly_the_window_fits(tokenizer):
    window = tokenizer.model_max_length
    tokens = tokenize(reader(tokenizer), [join_prompt(" ".join("a" * (window - 2)), ())])
    assert not tokens.pad_mask.any() and tokens.base_mask.sum() == window - 2


def test_no_prompt_has_targets(tokenizer):
    tokens = tokenize(reader(tokenizer), [join_prompt("", ()), join_prompt("a person", ())])
    assert tokens.target_weights.shape == (2, tokenizer.model_max_length, 0)
    assert not tokens.base_mask[0].any() and not tokens.phrase_weights[0].any()


def test_the_tokens_of_a_weighted_word_are_weighed_and_phrases_stay_where_they_are(tokenizer):
    weighted, plain = weighted_prompt("a (red hat:1.5), ((zzqj) hair:1.2)", ["a (turban:0.5)"]), join_prompt(
        "a red hat, zzqj hair", ["a turban"])
    tokens, without = tokenize(reader(tokenizer), [weighted, plain]), tokenize(reader(tokenizer), [plain, plain])
    assert torch.equal(tokens.ids, without.ids) and torch.equal(tokens.phrase_weights, without.phrase_weights)
    found = {weight: read_back(tokenizer, tokens.ids[0], tokens.token_weights[0] == weight)
             for weight in set(tokens.token_weights[0].tolist()) - {1.0}}
    assert {round(weight, 3): text for weight, text in found.items()} == {
        1.5: "redhat", 1.32: "zzqj", 1.2: "hair", 0.5: "turban"}
    assert (tokens.token_weights[1] == 1).all()
