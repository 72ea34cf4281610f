"""The small vocabulary: every text encodes, and CLIP finds the end of it."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from spf.pocket import tokenizer as pocket_tokenizer

reused = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(lambda text: "<|" not in text)


def test_the_end_token_has_the_largest_id(tokenizer):
    """open_clip pools where the id is largest."""
    assert len(tokenizer) == 700 and tokenizer.model_max_length == 77
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (698, 699)


@reused
@given(ANY_TEXT)
def test_any_text_encodes_without_unknown_tokens(tokenizer, text):
    first, *middle, last = tokenizer(text).input_ids
    assert (first, last) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert all(0 <= token < 698 for token in middle), "the unknown token is the end token"


@reused
@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12), max_size=8))
def test_words_come_back(tokenizer, words):
    ids = tokenizer(" ".join(words)).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == words


@reused
@given(ANY_TEXT)
def test_offsets_point_into_the_text_and_never_go_back(tokenizer, text):
    offsets = tokenizer(text, return_offsets_mapping=True).offset_mapping[1:-1]
    assert all(0 <= start < end <= len(text) for start, end in offsets)
    assert [start for start, _ in offsets] == sorted(start for start, _ in offsets)


def test_upper_case_does_not_matter(tokenizer):
    assert tokenizer("A Winter HAT").input_ids == tokenizer("a winter hat").input_ids


def test_frequent_words_are_one_token_and_captions_fit_the_window(tokenizer):
    assert len(tokenizer("a person with background").input_ids) == 4 + 2
    lengths = [len(tokenizer(text).input_ids) for text in pocket_tokenizer.caption_corpus(1, 300)]
    assert max(lengths) <= tokenizer.model_max_length


def test_the_vocabulary_is_determined_by_its_captions():
    made = [pocket_tokenizer.train_tokenizer(pocket_tokenizer.caption_corpus(seed, 50), 600) for seed in (0, 0, 0, 0, 0, 1)]
    vocabularies = [tokenizer.get_vocab() for tokenizer in made]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies[:-1])
    assert vocabularies[-1] != vocabularies[0]


@pytest.mark.parametrize("text", ["a portrait of a person, with red hair", "caf\u00e9 \U0001f60a \u7ea2", "  x  ", ""])
def test_saving_changes_nothing(tokenizer, tmp_path, text):
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded(text).input_ids == tokenizer(text).input_ids and loaded.model_max_length == 77
