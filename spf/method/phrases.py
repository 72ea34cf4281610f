"""Base text -> phrases, base and target texts -> prompt (D3, D18). Strings only.

Every phrase carries its character span, which is never found again by searching: words repeat ("a red hat, red hair").
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

_CONNECTIVES = "in with wearing holding on at under near against beside behind and"
_VIEWS = (
    "photo photograph picture image view portrait headshot shot close-up closeup "
    "painting drawing illustration sketch cartoon render"
)
_WORD_START, _WORD_END = r"(?<![\w'\u2019-])", r"(?![\w'\u2019-])"  # "built-in" and "on-screen" hold no connective
_AFTER_VIEW = "|".join(rf"(?<=\b{view})" for view in _VIEWS.split())
_BREAK = re.compile(
    r"[;\n\uff1b\uff0c\u3002\u3001]"  # the last four are the full-width ; , . and the list comma
    r"|(?<!\d)[.,]|[.,](?!\d)"  # not the points of "f/1.8" and "1,000"
    rf"|{_WORD_START}(?:{'|'.join(_CONNECTIVES.split())}){_WORD_END}"
    rf"|(?:{_AFTER_VIEW})\s+of{_WORD_END}",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Phrase:
    """text == whole[start:end], where `whole` is the string that the phrase was cut from."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Emphasis:
    """Tokens of whole[start:end] are weighed by `weight`; see method.emphasis."""

    start: int
    end: int
    weight: float

    def moved(self, by: int) -> "Emphasis":
        return Emphasis(self.start + by, self.end + by, self.weight)

    def clipped(self, start: int, end: int) -> "Emphasis | None":
        """What lies in whole[start:end], if anything does."""
        start, end = max(self.start, start), min(self.end, end)
        return Emphasis(start, end, self.weight) if start < end else None


@dataclass(frozen=True)
class Prompt:
    """[y_base, y_tar] of Eq. 2 as one string; all spans index into `text`, and `base` is an exact prefix of it."""

    text: str
    base: Phrase
    targets: tuple[Phrase, ...]
    phrases: tuple[Phrase, ...]  # of the base text
    emphasis: tuple[Emphasis, ...] = ()

    @property
    def target(self) -> Phrase:
        """y_tar: everything from the first target to the last, commas included; empty at the end if there is none."""
        start = self.targets[0].start if self.targets else len(self.text)
        return _cut(self.text, start, len(self.text))


def split_phrases(base_text: str) -> list[Phrase]:
    """The phrases of a base text, in order, disjoint, none empty; reading D18, the splitter without a language model.

    Cuts at punctuation, at connectives ("in", "with", "wearing", ...), which belong to no phrase, and after the "of" of
    "a view of X". A clause without a noun ("smiling") stays a phrase. Punctuation alone is none.
    """
    breaks = [match.span() for match in _BREAK.finditer(base_text)]
    starts = [0, *(end for _, end in breaks)]
    ends = [*(start for start, _ in breaks), len(base_text)]
    pieces = (trim(base_text, start, end) for start, end in zip(starts, ends, strict=True))
    return [piece for piece in pieces if _says_something(piece.text)]


def join_prompt(
    base_text: str, target_texts: Iterable[str], split: Callable[[str], Sequence[Phrase]] = split_phrases
) -> Prompt:
    """Eq. 2: [y_base, y_tar] = "base, target, target"; reading D3. Blank targets are left out, `split` finds phrases.

    The ends of every text lose spaces, commas and full stops. BPE merges runs of punctuation, yet the base tokens must
    be a prefix of the prompt's tokens: after a text that still ends in a symbol ("woman!") a space precedes the comma.
    TypeError for a single string in place of a list of targets.
    """
    if isinstance(target_texts, str):
        raise TypeError("target_texts must be a list of strings, not one string")
    text = trim(base_text).text
    base = Phrase(text, 0, len(text))
    targets = []
    for target in target_texts:
        target = trim(target).text
        if target:
            text += _separator(text)
            targets.append(Phrase(target, len(text), len(text) + len(target)))
            text += target
    return Prompt(text, base, tuple(targets), tuple(split(base.text)))


def single_phrases(texts: Iterable[str], most: int) -> tuple[str, ...]:
    """The distinct ones in their order, without those that only say several of the others, parted by commas.

    Of more than `most`, those that came most often.
    """
    known = Counter(texts)
    single = [text for text in known if "," not in text or not all(part.strip() in known for part in text.split(","))]
    often = set(sorted(single, key=known.__getitem__, reverse=True)[:most])
    return tuple(text for text in single if text in often)


def drop_last_phrase(prompt: Prompt) -> Prompt:
    """The prompt without the last phrase of its base; reading D3 for prompts longer than the text encoder's limit.

    ValueError when only one phrase is left: the targets are never what gets cut.
    """
    if len(prompt.phrases) < 2:
        raise ValueError(f"the base text {prompt.base.text!r} has no phrase to spare: shorten the target texts")
    kept = prompt.phrases[:-1]
    shorter = join_prompt(prompt.text[: kept[-1].end], [target.text for target in prompt.targets], lambda _: kept)
    found = [emphasis.clipped(0, shorter.base.end) for emphasis in prompt.emphasis]
    for before, after in zip(prompt.targets, shorter.targets, strict=True):
        inside = [emphasis.clipped(before.start, before.end) for emphasis in prompt.emphasis]
        found += [emphasis.moved(after.start - before.start) for emphasis in inside if emphasis]
    return replace(shorter, emphasis=tuple(emphasis for emphasis in found if emphasis))


def first_targets(prompt: Prompt, count: int) -> Prompt:
    """The prompt with its first `count` targets only: a prefix of its text; with none, the base text."""
    end = prompt.targets[count - 1].end if count else prompt.base.end
    emphasis = tuple(kept for emphasis in prompt.emphasis if (kept := emphasis.clipped(0, end)))
    return replace(prompt, text=prompt.text[:end], targets=prompt.targets[:count], emphasis=emphasis)


def _separator(text: str) -> str:
    if not text:
        return ""
    return ", " if text[-1].isalnum() else " , "


def _cut(text: str, start: int, end: int) -> Phrase:
    return Phrase(text[start:end], start, end)


def trim(text: str, start: int = 0, end: int | None = None) -> Phrase:
    """text[start:end] without white space, commas and full stops at its ends."""
    end = len(text) if end is None else end
    while start < end and (text[start].isspace() or text[start] in ",."):
        start += 1
    while start < end and (text[end - 1].isspace() or text[end - 1] in ",."):
        end -= 1
    return _cut(text, start, end)


def _says_something(text: str) -> bool:
    """Whether a letter, number, mark or symbol (an emoji is one) is in it, so not only punctuation and space."""
    return any(unicodedata.category(character)[0] in "LNMS" for character in text)
