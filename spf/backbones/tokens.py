"""From phrases of a prompt to token positions. Works for any fast tokenizer that reports character offsets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from spf.errors import InvalidInput
from spf.method.phrases import Phrase, Prompt, drop_last_phrase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenizedPrompts:
    """Ids and token memberships of a batch of prompts; see backbones.base.TextFeatures for the shapes."""

    ids: Tensor
    base_mask: Tensor
    pad_mask: Tensor
    phrase_weights: Tensor
    target_weights: Tensor
    prompts: tuple[Prompt, ...]


def tokenize(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt]) -> TokenizedPrompts:
    """Tokenize to the tokenizer's full window; base phrases that do not fit are dropped, targets never (D3)."""
    window = tokenizer.model_max_length
    fitted = tuple(fit_to_window(tokenizer, prompt) for prompt in prompts)
    encoded = tokenizer([prompt.text for prompt in fitted], padding="max_length", max_length=window,
                        return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.offset_mapping  # (B, T, 2), (0, 0) on special tokens
    words = _words(offsets, encoded.attention_mask)
    return TokenizedPrompts(
        ids=encoded.input_ids,
        base_mask=_base_mask(offsets, words, fitted),
        pad_mask=1.0 - encoded.attention_mask.float(),
        phrase_weights=_span_weights(offsets, words, [prompt.phrases for prompt in fitted]),
        target_weights=_span_weights(offsets, words, [prompt.targets for prompt in fitted]),
        prompts=fitted,
    )


def fit_to_window(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> Prompt:
    """The prompt without as many trailing base phrases as it takes to fit; logged, since it changes the base text."""
    window, original = tokenizer.model_max_length, prompt
    while (length := len(tokenizer(prompt.text).input_ids)) > window:
        if len(prompt.phrases) < 2:
            base, target = (len(tokenizer(phrase.text).input_ids) for phrase in (prompt.base, prompt.target))
            raise InvalidInput(
                "target_texts" if target >= base else "base_text",
                f"the prompt needs {length} tokens and the text encoder reads {window}; shorten it")
        prompt = drop_last_phrase(prompt)
    if prompt is not original:
        dropped = ", ".join(phrase.text for phrase in original.phrases[len(prompt.phrases):])
        logger.warning("The prompt is longer than %d tokens; left out of the base text: %s", window, dropped)
    return prompt


def _words(offsets: Tensor, attention_mask: Tensor) -> Tensor:
    """1 on tokens that stand for characters: no BOS, EOS or padding."""
    return (offsets[..., 1] > offsets[..., 0]).float() * attention_mask.float()


def _inside(offsets: Tensor, span: Phrase) -> Tensor:
    return ((offsets[:, 0] >= span.start) & (offsets[:, 1] <= span.end)).float()  # (T,)


def _base_mask(offsets: Tensor, words: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    return torch.stack([_inside(offsets[i], prompt.base) * words[i] for i, prompt in enumerate(prompts)])


def _span_weights(offsets: Tensor, words: Tensor, spans: Sequence[Sequence[Phrase]]) -> Tensor:
    """(B, T, P): 1/len on the tokens of each span, zero columns where a prompt has fewer spans than the longest."""
    weights = torch.zeros(*words.shape, max(map(len, spans), default=0))
    for row, phrases in enumerate(spans):
        for column, phrase in enumerate(phrases):
            member = _inside(offsets[row], phrase) * words[row]
            weights[row, :, column] = member / member.sum().clamp_min(1)
    return weights
