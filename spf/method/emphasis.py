"""Prompt weights as users write them: (word:1.2), (word), [word]; and what they do to embeddings.

An extension, for drawing only: the paper's prompts have no weights.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from spf.method.phrases import Emphasis, Prompt, join_prompt, trim
from spf.method.precision import wide

STRONGER, WEAKER = 1.1, 1 / 1.1  # what a bracket without a number says
_CLOSES = re.compile(r":\s*(\d{1,2}(?:\.\d*)?|\.\d+)\s*\)")
_TOKENS = re.compile(rf"\\[\\()\[\]]|{_CLOSES.pattern}|[()\[\]]|[^\\()\[\]:]+|.", re.DOTALL)
_OPENING = {")": "(", "]": "["}


def parse_emphasis(text: str) -> tuple[str, tuple[Emphasis, ...]]:
    """The text without weights, and what they apply to, as spans of it.

    (x:1.2) weighs x by 1.2, (x) by 1.1, [x] by 1/1.1; nested ones multiply. A backslash before a bracket makes it an
    ordinary character, and so does a missing partner: text that is not of this form stays as it was written.
    """
    tokens = [match.group() for match in _TOKENS.finditer(text)]
    closing = _pairs(tokens)  # index of the closing token -> index of its opening one
    plain, opened, found = "", dict.fromkeys(closing.values(), 0), []
    for index, token in enumerate(tokens):
        if index in opened:
            opened[index] = len(plain)
        elif index in closing:
            found.append(Emphasis(opened[closing[index]], len(plain), _weight(token)))
        else:
            plain += token[1:] if len(token) == 2 and token[0] == "\\" else token
    return plain, tuple(found)


def write_emphasis(text: str, spans: Iterable[Emphasis]) -> str:
    """The inverse of `parse_emphasis`: the text with its weights, to four digits, and its own brackets escaped."""
    spans, written = list(spans), ""
    for position in range(len(text) + 1):
        closed = sorted((span for span in spans if span.end == position), key=lambda span: -span.start)
        written += "".join(f":{span.weight:.4f}".rstrip("0").rstrip(".") + ")" for span in closed)
        written += "(" * sum(span.start == position for span in spans)
        written += re.sub(r"([\\()\[\]])", r"\\\1", text[position : position + 1])
    return written


def weighted_prompt(base_text: str, target_texts: Iterable[str]) -> Prompt:
    """`join_prompt` of texts that may hold weights."""
    base, *targets = (parse_emphasis(text) for text in (base_text, *target_texts))
    prompt = join_prompt(base[0], [plain for plain, _ in targets])
    parts = [base, *(target for target in targets if trim(target[0]).text)]
    found = []
    for (plain, spans), phrase in zip(parts, (prompt.base, *prompt.targets), strict=True):
        shift = phrase.start - trim(plain).start
        found += [moved for span in spans if (moved := span.moved(shift).clipped(phrase.start, phrase.end))]
    return replace(prompt, emphasis=tuple(found))


def emphasise(embeddings: Tensor, token_weights: Tensor) -> Tensor:
    """Embeddings (B, T, C) times token_weights (B, T), brought back to their mean magnitude, as A1111 does to the mean.

    The mean itself may be near zero, where dividing by it would blow up or change the sign of everything.
    """
    scaled = embeddings * token_weights[..., None].to(embeddings.dtype)
    before, after = (wide(values).abs().mean((1, 2), keepdim=True) for values in (embeddings, scaled))  # (B, 1, 1)
    ratio = torch.where(after > 0, before / after.clamp_min(torch.finfo(after.dtype).tiny), 1)
    return scaled * ratio.to(embeddings.dtype)


def _pairs(tokens: list[str]) -> dict[int, int]:
    pairs: dict[int, int] = {}
    waiting: list[int] = []
    for index, token in enumerate(tokens):
        if token in ("(", "["):
            waiting.append(index)
        elif (opening := _OPENING.get(token[-1])) and token[0] != "\\":
            partner = next((place for place in reversed(waiting) if tokens[place] == opening), None)
            if partner is not None:
                pairs[index] = partner
                waiting = waiting[:waiting.index(partner)]  # those inside have no partner
    return pairs


def _weight(token: str) -> float:
    number = _CLOSES.fullmatch(token)
    return float(number[1]) if number else STRONGER if token == ")" else WEAKER
