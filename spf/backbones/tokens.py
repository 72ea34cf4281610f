"""From phrases of a prompt to token positions. Works for any fast tokenizer that reports character offsets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from spf.errors import InvalidInput
from spf.method.phrases import Emphasis, Phrase, Prompt, drop_last_phrase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenizedPrompts:
    """Ids and token memberships of a batch of prompts; see backbones.base.TextFeatures for the shapes."""

    ids: Tensor
    base_mask: Tensor
    pad_mask: Tensor
    phrase_weights: Tensor
    target_weights: Tensor
    token_weights: Tensor  # Shape: (B, T), the prompt's emphasis; 1 where there is none
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True)
class Reader:
    """A tokenizer, and how many tokens the encoder behind it reads, special tokens included."""

    tokenizer: PreTrainedTokenizerFast
    window: int

    def length(self, text: str) -> int:
        return len(self.tokenizer(text).input_ids)


def tokenize(reader: Reader, prompts: Sequence[Prompt]) -> TokenizedPrompts:
    """Tokenize and pad to the window, which every prompt must fit (see `fit`)."""
    texts = [prompt.text for prompt in prompts]
    encoded = reader.tokenizer(
        texts, padding="max_length", max_length=reader.window, return_offsets_mapping=True, return_tensors="pt")
    offsets = _cores(encoded.offset_mapping, texts)  # (B, T, 2), (0, 0) on special tokens
    words = _words(offsets, encoded.attention_mask)
    return TokenizedPrompts(
        ids=encoded.input_ids,
        base_mask=_base_mask(offsets, words, prompts),
        pad_mask=1.0 - encoded.attention_mask.float(),
        phrase_weights=_span_weights(offsets, words, [prompt.phrases for prompt in prompts]),
        target_weights=_span_weights(offsets, words, [prompt.targets for prompt in prompts]),
        token_weights=_token_weights(offsets, words, prompts),
        prompts=tuple(prompts),
    )


def fit(prompt: Prompt, *readers: Reader) -> Prompt:
    """The prompt without as many trailing base phrases as it takes to fit every reader; targets are never cut (D3).

    What is dropped is logged, since it changes the base text. Raises InvalidInput if nothing is left to drop.
    """
    original = prompt
    for reader in readers:
        prompt = _fit_one(prompt, reader)
    if prompt is not original:
        dropped = ", ".join(phrase.text for phrase in original.phrases[len(prompt.phrases):])
        logger.warning("The prompt is longer than %d tokens; left out of the base text: %s",
                       min(reader.window for reader in readers), dropped)
    return prompt


def _fit_one(prompt: Prompt, reader: Reader) -> Prompt:
    while (length := reader.length(prompt.text)) > reader.window:
        if len(prompt.phrases) < 2:
            field = "target_texts" if reader.length(prompt.target.text) >= reader.length(prompt.base.text) else "base_text"
            raise InvalidInput(
                field, f"the prompt needs {length} tokens and the text encoder reads {reader.window}; shorten it")
        prompt = drop_last_phrase(prompt)
    return prompt


def memberships(parts: Sequence[TokenizedPrompts], rest: int = 0) -> dict[str, Tensor | tuple[Prompt, ...]]:
    """The fields of TextFeatures for encoders whose tokens follow one another, then `rest` positions that are no tokens."""
    lengths = [part.ids.shape[1] for part in parts]
    weights = {}
    for name in ("phrase_weights", "target_weights"):
        placed = [F.pad(getattr(part, name), (0, 0, sum(lengths[:index]), sum(lengths[index + 1:]) + rest))
                  for index, part in enumerate(parts)]
        weights[name] = torch.stack(placed, dim=2)  # (B, T, E, P)
    masks = {name: F.pad(torch.cat([getattr(part, name) for part in parts], dim=1), (0, rest))
             for name in ("base_mask", "pad_mask")}
    return {**masks, **weights, "prompts": parts[0].prompts}


def _cores(offsets: Tensor, texts: Sequence[str]) -> Tensor:
    """Offsets without the punctuation that a token ends in: T5 has pieces such as "hair,", which belong to "hair"."""
    cores = [[(start, start + (len(text[start:end].rstrip(",.;")) or end - start)) for start, end in row]
             for text, row in zip(texts, offsets.tolist(), strict=True)]
    return torch.tensor(cores)


def _words(offsets: Tensor, attention_mask: Tensor) -> Tensor:
    """1 on tokens that stand for characters: no BOS, EOS or padding."""
    return (offsets[..., 1] > offsets[..., 0]).float() * attention_mask.float()


def _inside(offsets: Tensor, span: Phrase | Emphasis) -> Tensor:
    return ((offsets[:, 0] >= span.start) & (offsets[:, 1] <= span.end)).float()  # (T,)


def _base_mask(offsets: Tensor, words: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    return torch.stack([_inside(offsets[i], prompt.base) * words[i] for i, prompt in enumerate(prompts)])


def _token_weights(offsets: Tensor, words: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    weights = torch.ones_like(words)
    for row, prompt in enumerate(prompts):
        for emphasis in prompt.emphasis:
            inside = _inside(offsets[row], emphasis) * words[row]
            weights[row] *= 1 + (emphasis.weight - 1) * inside
    return weights


def _span_weights(offsets: Tensor, words: Tensor, spans: Sequence[Sequence[Phrase]]) -> Tensor:
    """(B, T, P): 1/len on the tokens of each span, zero columns where a prompt has fewer spans than the longest."""
    weights = torch.zeros(*words.shape, max(map(len, spans), default=0))
    for row, phrases in enumerate(spans):
        for column, phrase in enumerate(phrases):
            member = _inside(offsets[row], phrase) * words[row]
            weights[row, :, column] = member / member.sum().clamp_min(1)
    return weights
