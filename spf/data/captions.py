"""One caption -> base text and target text: the base is what the caption says besides the target phrases. Strings only.

"a man with red hair and a winter hat, smiling" without "a winter hat" is "a man with red hair, smiling". No grammar is
parsed; the words that join the parts of a caption (punctuation, "with", "wearing", "and", ...) are enough to leave none of
them behind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from spf.config import MAX_TEXT
from spf.data.problems import shown

_ARTICLES = "a an the his her their its one".split()
_JOINS = (
    "in with wearing wears holding holds on at under near against beside behind and has having sporting featuring showing"
).split()
_HELPERS = r"(?:(?:who|which|that|he|she|they|it)\s+)?(?:(?:is|are|was)\s+)?(?:also\s+)?"  # "who is wearing"
_START, _END = r"(?<![\w'\u2019-])", r"(?![\w'\u2019-])"
_MARK = r"(?:[;.\uff1b\uff0c\u3002\u3001,](?!\d)\s*)"
_VERB = rf"{_START}{_HELPERS}(?:{'|'.join(_JOINS)}){_END}"
_AND = rf"{_START}and{_END}"
_JOIN = re.compile(
    rf"\s*(?:{_MARK}+(?:{_AND}\s*)?(?:{_VERB})?|{_AND}\s*(?:{_VERB})?|{_VERB})\s*", re.IGNORECASE)
_ARTICLE = re.compile(rf"(?:{'|'.join(_ARTICLES)})\s+", re.IGNORECASE)
_SOUNDS_AS_VOWEL = re.compile(r"(?!eu|uni|use|one)[aeiou]", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """What a picture folder does not say itself when it holds one caption per picture instead of two texts."""

    target_texts: tuple[str, ...] = ()  # the phrases to be taught
    base_text: str = ""  # for pictures whose caption says nothing besides them, or that have none


@dataclass(frozen=True)
class Texts:
    """The two texts of a picture; `kind` and `message` say what is wrong with them, if anything."""

    base_text: str
    target_text: str
    kind: str = ""
    message: str = ""


@dataclass(frozen=True)
class SplitCaption:
    """base_text and target_text of one picture. `missing` are the phrases asked for that the caption does not hold."""

    base_text: str
    target_text: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """A stretch of a caption between two joins, and the join before it."""

    join: str
    text: str


def read_caption(caption: str, reading: Reading) -> Texts:
    """Base and target text of a caption; an empty one stands for a picture that shows all targets and nothing else."""
    if not reading.target_texts:
        found = "has one caption, which does not say" if caption.strip() else "has no caption, and nothing else says"
        message = f"{found} which words are to be taught; name them with --target"
        return Texts(caption, "", "missing-target", message)
    if len(caption) > MAX_TEXT:
        return Texts("", "", "text-too-long", f"the caption has {len(caption):,} characters; use at most {MAX_TEXT:,}")
    if not caption.strip():
        if reading.base_text:
            return Texts(reading.base_text, ", ".join(reading.target_texts))
        return Texts("", "", "missing-caption", "has no caption; write one, or give one for all with --base-text")
    split = split_caption(caption, reading.target_texts)
    if not split.target_text:
        wanted = " or ".join(f"'{shown(phrase, 40)}'" for phrase in reading.target_texts[:4])
        message = f"the caption '{shown(caption, 60)}' does not say {wanted}; add it, or take the picture out"
        return Texts(split.base_text, "", "caption-without-target", message)
    base = split.base_text or reading.base_text
    if not base:
        message = "the caption names only the target; describe the rest too, or give a text for all with --base-text"
        return Texts("", split.target_text, "caption-only-target", message)
    return Texts(base, split.target_text)


def split_caption(caption: str, target_phrases: Sequence[str]) -> SplitCaption:
    """The caption without the target phrases, and those it holds, joined by ", "; "" where it holds none of them.

    Upper case, white space and a leading article do not matter ("The Winter Hat" is "a winter hat"). Every occurrence goes.
    The base text is "" if the caption says nothing else.
    """
    base, found = " ".join(caption.split()), []
    for phrase in sorted(target_phrases, key=len, reverse=True):  # "a red winter hat" before "a winter hat"
        without = remove_phrase(base, phrase)
        if without is not None:
            base = without
            found.append(phrase)
    kept = [phrase for phrase in target_phrases if phrase in found]
    return SplitCaption(base, ", ".join(kept), tuple(phrase for phrase in target_phrases if phrase not in found))


def remove_phrase(caption: str, phrase: str) -> str | None:
    """The caption without every occurrence of the phrase, as clean text; None if there is none."""
    words = [re.escape(word) for word in _ARTICLE.sub("", phrase.strip(" ,."), count=1).split()]
    if not words:
        return None
    pattern = re.compile(r"(?<!\w)" + r"[\s-]+".join(words) + r"(?!\w)", re.IGNORECASE)
    if not pattern.search(caption):
        return None
    is_thing = _ARTICLE.match(phrase.strip(" ,.")) is not None
    parts = [_without(part, pattern, is_thing, index == 0) for index, part in enumerate(_parts(caption, pattern))]
    return _joined(parts)


def _parts(caption: str, pattern: re.Pattern[str]) -> list[_Part]:
    """The caption cut at its joins, but never inside the phrase ("hat with a bow" is one)."""
    kept = [match.span() for match in pattern.finditer(caption)]
    joins = [match for match in _JOIN.finditer(caption)
             if not any(start < match.end() and match.start() < end for start, end in kept)]
    starts = [0, *(match.end() for match in joins)]
    ends = [*(match.start() for match in joins), len(caption)]
    words = ["", *(match.group() for match in joins)]
    return [_Part(join, caption[start:end].strip()) for join, start, end in zip(words, starts, ends, strict=True)]


def _without(part: _Part, pattern: re.Pattern[str], is_thing: bool, first: bool) -> _Part:
    """The part without the phrase. What only describes the phrase ("a RED winter hat MADE OF WOOL") goes with it."""
    match = pattern.search(part.text)
    if match is None:
        return part
    head, tail = part.text[:match.start()].strip(), part.text[match.end():].strip()
    article = _ARTICLE.match(head + " ")
    only_article = article is not None and article.end() > len(head)
    whole = (not head or only_article) and (is_thing or not tail) or (
        article is not None and not only_article and not tail and not first)
    return _Part(part.join, "" if whole else _cut_out(part.text, pattern))


def _cut_out(text: str, pattern: re.Pattern[str]) -> str:
    """Only the phrase goes, and "a" before it becomes "an" if the next word asks for it."""
    while match := pattern.search(text):
        head, tail = text[:match.start()].strip(), text[match.end():].strip()
        words = head.split()
        if tail and words and words[-1].lower() in ("a", "an"):
            article = "an" if _SOUNDS_AS_VOWEL.match(tail) else "a"
            head = " ".join([*words[:-1], article.capitalize() if words[-1][0].isupper() else article])
        text = f"{head} {tail}".strip()
    return text


def _joined(parts: list[_Part]) -> str:
    """The parts that still say something. Of two joins that meet, the one that leads to the next part stays, unless
    it is only "and": then "with [a hat] and red hair" is "with red hair"."""
    text, pending = "", ""
    for part in parts:
        join = part.join
        if pending:
            join = pending if _is_and(join) and not _is_comma(pending) else join
        if not part.text:
            pending = join
            continue
        text = text + _spaced(join) + part.text if text else part.text
        pending = ""
    return text.strip(" ,.;")


def _is_and(join: str) -> bool:
    return join.strip(" ,").lower() == "and"


def _is_comma(join: str) -> bool:
    return not any(character.isalnum() for character in join) or _is_and(join)


def _spaced(join: str) -> str:
    words = join.strip()
    if not words:
        return " "
    return f" {words} " if words[0].isalnum() else f"{words} "
