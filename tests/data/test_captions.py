"""split_caption: a base text that reads as if the target had never been written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spf.data.captions import SplitCaption, remove_phrase, split_caption

HAT = "a winter hat"


@pytest.mark.parametrize("caption, base", [
    ("a man, a winter hat", "a man"),
    ("a winter hat, a man", "a man"),
    ("a man, a winter hat, smiling", "a man, smiling"),
    ("a man wearing a winter hat", "a man"),
    ("a man wearing a winter hat.", "a man"),
    ("A man is wearing a winter hat, smiling", "A man, smiling"),
    ("a man who is wearing a winter hat", "a man"),
    ("a man wears a winter hat in a park", "a man in a park"),
    ("a man with a winter hat and red hair", "a man with red hair"),
    ("a man with red hair and a winter hat", "a man with red hair"),
    ("a man with red hair and a winter hat in a park", "a man with red hair in a park"),
    ("a man with red hair, wearing a winter hat, on a blue background", "a man with red hair, on a blue background"),
    ("a man wearing glasses, a winter hat and a scarf", "a man wearing glasses and a scarf"),
    ("a man wearing glasses, a scarf, and a winter hat", "a man wearing glasses, a scarf"),
    ("a man wearing a winter hat, glasses, and a scarf", "a man, glasses, and a scarf"),
    ("a man in a red winter hat", "a man"),
    ("a man in a winter hat made of wool, smiling", "a man, smiling"),
    ("a man in The Winter  Hat", "a man"),
    ("a man in his winter hat", "a man"),
    ("a winter hat on a man", "a man"),
    ("a man winter hat", "a man"),
    ("a man with a winter-hat", "a man"),
    ("a winter hat, a man, winter hat", "a man"),
    ("a man; a winter hat; f/1.8", "a man; f/1.8"),
    ("a winter hat", ""),
])
def test_a_thing(caption, base):
    assert split_caption(caption, [HAT]) == SplitCaption(base, HAT, ())


@pytest.mark.parametrize("phrase, caption, base", [
    ("freckled skin", "a woman with freckled skin and green eyes", "a woman with green eyes"),
    ("freckled", "a freckled woman, smiling", "a woman, smiling"),
    ("bearded", "a portrait of a bearded old man", "a portrait of an old man"),
    ("elderly", "an elderly woman in red", "a woman in red"),
    ("pencil sketch style", "a portrait of a man in pencil sketch style", "a portrait of a man"),
    ("pencil sketch style", "pencil sketch style, a man with red hair", "a man with red hair"),
    ("V* hat", "a man with a V* hat, smiling", "a man, smiling"),
    ("a hat with a bow", "a woman in a hat with a bow and a coat", "a woman in a coat"),
])
def test_qualities_styles_and_special_words(phrase, caption, base):
    assert split_caption(caption, [phrase]) == SplitCaption(base, phrase, ())


@pytest.mark.parametrize("caption", ["a man", "a man in a winter hatch", "", "   ", "a winter, a hat", "awinter hat"])
def test_a_caption_without_the_phrase_keeps_its_words_and_says_so(caption):
    assert split_caption(caption, [HAT]) == SplitCaption(" ".join(caption.split()), "", (HAT,))


def test_several_phrases():
    phrases = [HAT, "a red winter hat", "freckled skin"]
    split = split_caption("a man with freckled skin, in a red winter hat", phrases)
    assert split == SplitCaption("a man", "a red winter hat, freckled skin", (HAT,))
    assert split_caption("a man", []) == SplitCaption("a man", "", ())
    assert remove_phrase("a man", " , ") is None


subjects = st.sampled_from(["a man", "a portrait of a woman", "an old person", "two people"])
clauses = st.lists(st.sampled_from(
    ["with red hair", "in a park", "smiling", "wearing glasses", "on a blue background"]), max_size=3, unique=True)
ways = st.sampled_from([", {}", " wearing {}", ", wearing {}", " and {}", " in {}", " with {}", ", who is wearing {}"])
things = st.sampled_from([HAT, "a turban", "heart-shaped eyes", "a V* hat", "freckles"])


@given(subjects, clauses, ways, things, st.data())
def test_what_was_put_in_comes_out_again(subject, clauses, way, thing, data):
    """Wherever between the clauses of a caption the phrase is said, the rest is the caption before."""
    place = data.draw(st.integers(0, len(clauses)))
    before, after = [subject, *clauses[:place]], clauses[place:]
    base = ", ".join([*before, *after])
    caption = ", ".join([", ".join(before) + way.format(thing), *after])
    assert split_caption(caption, [thing]) == SplitCaption(base, thing, ())


@given(st.text(max_size=60), st.text(max_size=20))
def test_any_text_at_all(caption, phrase):
    split = split_caption(caption, [phrase])
    assert (split.target_text, split.missing) in ((phrase, ()), ("", (phrase,)))
    assert remove_phrase(split.base_text, phrase) is None or not split.target_text
