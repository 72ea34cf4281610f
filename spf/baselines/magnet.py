"""Magnet (NeurIPS 2024): every noun phrase of the prompt is moved towards its own attribute and away from the others'.

Written from the paper's description. It edits the text embeddings once, before sampling, and trains nothing. Readings:
noun phrases are those of `phrases.split_phrases` and the targets, recognised by a determiner or a known noun at the end,
since no parser is asked for; an MM-DiT's two CLIP towers are edited as one, side by side, and its T5 tokens are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spf.backbones.base import Backbone, TextFeatures
from spf.config import MagnetConfig
from spf.generation.guide import Guide
from spf.method.phrases import Phrase, Prompt, join_prompt

_DETERMINERS = frozenset("a an the some his her their its".split())
# what a picture is, and its sides: no subject
NO_SUBJECT = frozenset(
    "photo photograph picture image portrait drawing illustration painting view front side back top bottom piece pile".split())


# What `_Words.nearest` found, by text encoder, which all forks of a model share: reading all nouns is most of the work.
_NEAREST: WeakKeyDictionary[nn.Module, dict[tuple, list[str]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Concept:
    """A noun phrase: 'red hair' is the attribute 'red' and the subject 'hair'."""

    attribute: str  # "" if there is none
    subject: str
    span: Phrase  # in the prompt

    @property
    def text(self) -> str:
        return f"{self.attribute} {self.subject}".strip()


@lru_cache(maxsize=1)
def nouns() -> tuple[str, ...]:
    """Common things that can have attributes; where the attribute of a subject is measured besides on itself."""
    return tuple((Path(__file__).parent / "nouns.txt").read_text(encoding="utf-8").split())


def concepts(prompt: Prompt) -> list[Concept]:
    """The noun phrases of a prompt, in order; one that is another's attribute is left out."""
    spans = [*((span, False) for span in prompt.phrases), *((span, True) for span in prompt.targets)]
    found = [concept for span, certain in spans if (concept := concept_of(span, certain)) is not None]
    return [one for one in found if not any(f" {one.text} " in f" {other.attribute} " for other in found if other is not one)]


def concept_of(span: Phrase, certain: bool = False) -> Concept | None:
    """The noun phrase that a span is, if it is one; a target is `certain`ly one."""
    words = span.text.lower().split()
    has_determiner = words[0] in _DETERMINERS
    words = words[has_determiner:]
    if not words or (words[-1] in NO_SUBJECT and not certain):
        return None
    known = has_determiner or words[-1] in nouns() or words[-1].removesuffix("s") in nouns()
    return Concept(" ".join(words[:-1]), words[-1], span) if known or certain else None


@dataclass
class Magnet(Guide):
    config: MagnetConfig

    @torch.no_grad()
    def text(self, backbone: Backbone, full: TextFeatures) -> TextFeatures:
        """`full` holds the prompt to guide away from and the prompt; only the prompt changes, and only if it has targets."""
        prompt = full.prompts[1]
        edits = self._edits(backbone, prompt) if prompt.targets and self.config.strength else []
        if not edits:
            return full
        spans = Prompt(prompt.text, prompt.base, prompt.targets, tuple(concept.span for concept, _ in edits))
        last = _last_tokens(backbone.encode_prompts([spans]).phrase_weights, backbone.window)[0]  # (P,)
        embeddings = full.embeddings.clone()
        for position, (_, vector) in zip(last.tolist(), edits, strict=True):
            embeddings[1, position] += self.config.strength * vector
        return replace(full, embeddings=embeddings)

    def _edits(self, backbone: Backbone, prompt: Prompt) -> list[tuple[Concept, Tensor]]:
        """What is added at the last token of each concept: alpha v+ - sum over the others of beta v-."""
        found, words = concepts(prompt), _Words(backbone)
        edits = []
        for concept in found:
            near = words.nearest(concept.subject, self.config.neighbours)
            omega = words.padding_similarity(concept.text)
            alpha, beta = (self.config.threshold - omega).exp(), 1 - omega.square()
            vector = torch.zeros_like(words.last([concept.subject])[0])
            if concept.attribute:
                vector = vector + alpha * words.shift(concept.attribute, near)
            for other in found:
                if other is not concept and other.attribute:
                    vector = vector - beta * words.shift(other.attribute, near)
            edits.append((concept, vector))
        return edits


class _Words:
    """Embeddings of single phrases, each encoded alone, in the CLIP tokens of a backbone's text features."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone

    def last(self, texts: Sequence[str]) -> Tensor:
        """The last word's embedding of each text: (len(texts), C)."""
        features = self._encode(texts)
        position = _last_word(features.base_mask[:, :self.backbone.window])
        return features.embeddings[torch.arange(len(texts), device=position.device), position]

    def nearest(self, subject: str, count: int) -> list[str]:
        """The subject, and the nouns nearest to it by cosine: `count` in all."""
        known = _NEAREST.setdefault(self.backbone.networks()["text_encoder"], {})
        asked = (subject, count, nouns())
        if asked not in known:
            known[asked] = self._nearest(subject, count)
        return known[asked]

    def _nearest(self, subject: str, count: int) -> list[str]:
        words = [subject, *(noun for noun in nouns() if noun != subject)]
        embeddings = self.last(words)
        similarity = F.cosine_similarity(embeddings, embeddings[:1])
        similarity[0] = torch.inf
        return [words[index] for index in similarity.topk(min(count, len(words))).indices.tolist()]

    def shift(self, attribute: str, subjects: Sequence[str]) -> Tensor:
        """What an attribute does to a word, mean over the subjects: e(attribute subject) - e(subject), (C,)."""
        return (self.last([f"{attribute} {subject}" for subject in subjects]) - self.last(subjects)).mean(0)

    def padding_similarity(self, text: str) -> Tensor:
        """omega: cosine of the first end-of-text token and the last padding of a phrase encoded alone, a scalar."""
        features, window = self._encode([text]), self.backbone.window
        end = int(_last_word(features.base_mask[:, :window])[0]) + 1
        return F.cosine_similarity(features.embeddings[0, end], features.embeddings[0, window - 1], dim=0)

    def _encode(self, texts: Iterable[str]) -> TextFeatures:
        return self.backbone.encode_prompts([join_prompt(text, ()) for text in texts])


def _last_word(mask: Tensor) -> Tensor:
    """The last position of each row (B, T) that is 1: (B,)."""
    return (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)


def _last_tokens(phrase_weights: Tensor, window: int) -> Tensor:
    """The last CLIP token of each phrase: (B, T, E, P) -> (B, P)."""
    members = (phrase_weights[:, :window] > 0).any(2).float()  # (B, window, P)
    return _last_word(members.mT.flatten(0, 1)).view(members.shape[0], members.shape[2])
