import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spf.method.phrases import Phrase, drop_last_phrase, join_prompt, single_phrases, split_phrases

CONNECTIVES = (
    "in",
    "with",
    "wearing",
    "holding",
    "on",
    "at",
    "under",
    "near",
    "against",
    "beside",
    "behind",
    "and",
    "of",
)


@pytest.mark.parametrize(
    "base_text, expected",
    [
        # D18's own test vectors
        (
            "A woman in a brown jacket, with a curtain background,",
            ["A woman", "a brown jacket", "a curtain background"],
        ),
        ("A woman, in a white Shirt.", ["A woman", "a white Shirt"]),
        ("Portrait, woman, close view.", ["Portrait", "woman", "close view"]),
        ("A close view of young man.", ["A close view", "young man"]),
        # each rule
        ("a photo of a man; red hair\nglasses", ["a photo", "a man", "red hair", "glasses"]),
        ("A Portrait Of a girl", ["A Portrait", "a girl"]),
        ("an illustration  of a bearded man", ["an illustration", "a bearded man"]),
        ("a close-up of an old man", ["a close-up", "an old man"]),
        ("a piece of cake", ["a piece of cake"]),  # "of" cuts only after a kind of picture
        ("an interview of a man", ["an interview of a man"]),
        ("a man WEARING a hat And holding a cup", ["a man", "a hat", "a cup"]),
        ("a woman sitting at a desk under a lamp", ["a woman sitting", "a desk", "a lamp"]),
        ("a boy, smiling, beside a dog", ["a boy", "smiling", "a dog"]),  # a clause without a noun stays
        ("a cat and in a box", ["a cat", "a box"]),
        # what only looks like a cut
        ("a man in a sandy inland town", ["a man", "a sandy inland town"]),
        ("a built-in wardrobe, an on-screen actor", ["a built-in wardrobe", "an on-screen actor"]),
        ("an f/1.8 lens, 1,000 freckles", ["an f/1.8 lens", "1,000 freckles"]),
        ("a woman, 30, blond", ["a woman", "30", "blond"]),
        # other writing
        ("une femme\uff0cun chapeau\u3002", ["une femme", "un chapeau"]),
        ("a \U0001f3a9, \U0001f3a9", ["a \U0001f3a9", "\U0001f3a9"]),
        # nothing to say
        ("", []),
        (" ,. ; \n", []),
        ("and", []),
        ("a woman, -- , !", ["a woman"]),
    ],
)
def test_split_phrases(base_text, expected):
    assert [phrase.text for phrase in split_phrases(base_text)] == expected


def test_repeated_phrases_have_their_own_spans():
    text = "a red hat, a red hat, a woman in a red hat"
    assert [(p.start, p.end) for p in split_phrases(text) if p.text == "a red hat"] == [(0, 9), (11, 20), (33, 42)]


def test_join_prompt_by_hand():
    prompt = join_prompt(" A woman in a brown jacket, with a curtain background, ", ["a V* hat.", " ", "freckles"])
    assert prompt.text == "A woman in a brown jacket, with a curtain background, a V* hat, freckles"
    assert prompt.base == Phrase("A woman in a brown jacket, with a curtain background", 0, 52)
    assert [t.text for t in prompt.targets] == ["a V* hat", "freckles"]
    assert prompt.targets[0].start == 54
    assert prompt.target == Phrase("a V* hat, freckles", 54, 72)
    assert [p.text for p in prompt.phrases] == ["A woman", "a brown jacket", "a curtain background"]


@pytest.mark.parametrize(
    "base, targets, text",
    [
        ("A woman", [], "A woman"),
        ("A woman.", ["a hat"], "A woman, a hat"),
        ("", ["a hat"], "a hat"),
        ("", [], ""),
        ("A woman!", ["a hat"], "A woman! , a hat"),  # "!," would become one token and break the prefix
        ("a hat", ["a hat", "a hat"], "a hat, a hat, a hat"),
    ],
)
def test_join_prompt_edges(base, targets, text):
    assert join_prompt(base, targets).text == text


def test_targets_are_a_list():
    with pytest.raises(TypeError, match="list of strings"):
        join_prompt("A woman", "a hat")


def test_another_splitter_can_be_used():
    prompt = join_prompt("A woman, smiling.", ["a hat"], split=lambda text: [Phrase(text[2:7], 2, 7)])
    assert prompt.phrases == (Phrase("woman", 2, 7),)


def test_drop_last_phrase_shortens_the_base_and_keeps_the_targets():
    prompt = drop_last_phrase(
        join_prompt("A woman in a brown jacket, with a curtain background", ["a hat", "freckles"])
    )
    assert prompt.text == "A woman in a brown jacket, a hat, freckles"
    assert [p.text for p in prompt.phrases] == ["A woman", "a brown jacket"]
    prompt = drop_last_phrase(prompt)
    assert prompt.text == "A woman, a hat, freckles"
    with pytest.raises(ValueError, match="no phrase to spare"):
        drop_last_phrase(prompt)


def test_the_phrases_that_stay_are_not_split_again():
    """Those of another splitter, and single words that a baseline asks for, are kept as they are."""
    words = [Phrase("red", 2, 5), Phrase("hair", 6, 10), Phrase("hat", 14, 17)]
    prompt = drop_last_phrase(join_prompt("a red hair, a hat", ["a scarf"], split=lambda _: words))
    assert prompt.text == "a red hair, a scarf" and prompt.phrases == tuple(words[:2])


# Text made of what the splitter looks for, so that the cuts are really exercised, beside text of anything at all.
PIECES = st.lists(
    st.sampled_from(
        [*CONNECTIVES, "photo", "view", "close-up", "a", "woman", "V*", "1", "", ",", ".", ";", "\n", "!", "é"]
    ),
    max_size=12,
)
TEXTS = st.one_of(st.text(max_size=40), PIECES.map(" ".join), PIECES.map("".join))


def check_spans(phrases, whole):
    end = 0
    for phrase in phrases:
        assert phrase.text == whole[phrase.start : phrase.end]
        assert end <= phrase.start < phrase.end
        end = phrase.end


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_phrases_slice_back_and_leave_out_only_connectives(text):
    phrases = split_phrases(text)
    check_spans(phrases, text)
    left_out = list(text)
    for phrase in phrases:
        assert phrase.text.strip(" ,.") == phrase.text
        left_out[phrase.start : phrase.end] = " " * len(phrase.text)
    words = re.findall(r"[^\W_]+", "".join(left_out))
    assert all(word.lower() in CONNECTIVES for word in words)


@given(TEXTS, st.lists(TEXTS, max_size=3))
@settings(max_examples=150, deadline=None)
def test_prompt_spans(base_text, target_texts):
    prompt = join_prompt(base_text, target_texts)
    assert prompt.text.startswith(prompt.base.text)
    assert prompt.base.text == prompt.text[prompt.base.start : prompt.base.end]
    assert prompt.base.text in base_text
    check_spans(prompt.targets, prompt.text)
    check_spans(prompt.phrases, prompt.text)
    assert all(phrase.end <= prompt.base.end for phrase in prompt.phrases)
    assert all(target.start >= prompt.base.end for target in prompt.targets)
    assert prompt.target.text == prompt.text[prompt.target.start :]
    assert join_prompt(prompt.base.text, [t.text for t in prompt.targets]) == prompt
    if len(prompt.phrases) > 1:
        shorter = drop_last_phrase(prompt)
        check_spans(shorter.phrases, shorter.text)
        assert shorter.phrases == prompt.phrases[:-1]
        assert [t.text for t in shorter.targets] == [t.text for t in prompt.targets]


@given(TEXTS, st.lists(TEXTS, max_size=2))
@settings(max_examples=150, deadline=None)
def test_clip_would_cut_the_base_into_the_same_words_alone_and_in_the_prompt(base_text, target_texts):
    """D3. CLIP's tokenizer works on these pieces; the base's must be an exact prefix of the prompt's."""
    piece = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)
    prompt = join_prompt(base_text, target_texts)
    alone, together = piece.findall(prompt.base.text), piece.findall(prompt.text)
    assert together[: len(alone)] == alone


def test_the_splitter_needs_no_torch():
    code = "import spf.method.phrases, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("texts, single", [
    ((), ()), (("a hat", "a beard", "a hat"), ("a hat", "a beard")),
    (("a hat, a beard", "a hat", "a beard", "a beard,a hat"), ("a hat", "a beard")),
    (("a hat, a beard", "a hat"), ("a hat, a beard", "a hat")),  # a beard alone was never taught
    (("a tall, red hat", "a beard"), ("a tall, red hat", "a beard")), ((",", "a hat"), (",", "a hat"))])
def test_phrases_that_only_say_several_others_are_left_out(texts, single):
    assert single_phrases(texts, most=9) == single


def test_of_very_many_phrases_those_stay_that_came_most_often():
    texts = ["once", *(["often"] * 3), *(["twice"] * 2), "once more"]
    assert single_phrases(texts, most=2) == ("often", "twice")
    assert single_phrases(texts, most=3) == ("once", "often", "twice"), "of equals the first"
