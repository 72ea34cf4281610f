"""A small vocabulary in CLIPTokenizer format, learned on captions; any text encodes, since every byte is a token."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from spf.pocket import captions, pictures

WINDOW = 77  # tokens, as in CLIP ViT-L/14
_START, _END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> CLIPTokenizer:
    """Byte-pair merges learned on `texts`; the two special tokens come last, as CLIP's pooling expects of the end token."""
    letters = sorted(ByteLevel.alphabet())
    alphabet = letters + [letter + "</w>" for letter in letters]
    plain = _clip_tokenizer({token: index for index, token in enumerate(alphabet + [_START, _END])}, [])
    learner = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    learner.normalizer = plain.backend_tokenizer.normalizer
    learner.pre_tokenizer = plain.backend_tokenizer.pre_tokenizer
    # Equally frequent pairs are merged in the order of their ids. Left to itself the trainer numbers the letters that end
    # a word in the order of a hash map, so the vocabulary would change from run to run; "special" fixes their ids.
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2, special_tokens=alphabet, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(texts, trainer)
    merges = _merges(learner)[: vocabulary - 2 - len(alphabet)]
    tokens = alphabet + ["".join(merge) for merge in merges] + [_START, _END]
    return _clip_tokenizer({token: index for index, token in enumerate(tokens)}, merges)


def caption_corpus(seed: int, count: int) -> list[str]:
    """Captions with target phrases, to learn the vocabulary on."""
    texts = []
    for index in range(count):
        portrait, rng = pictures.portrait_at(seed, index, 0.5), random.Random(f"corpus/{seed}/{index}")
        text = captions.base_caption(portrait, rng)
        texts.append(f"{text}, {captions.target_caption(portrait, rng)}" if portrait.target else text)
    return texts


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(merge if isinstance(merge, list) else merge.split(" ")) for merge in merges]


def _clip_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> CLIPTokenizer:
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=WINDOW)
