"""CLIP's published vocabulary, which every Stable Diffusion reads text with, from the copy inside the open_clip package."""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from transformers import CLIPTokenizer

SIZE = 49408  # 256 bytes, each also as the end of a word, 48,894 merges, start and end
_MERGES = SIZE - 2 * 256 - 2
WINDOW = 77


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """The tokenizer of Stable Diffusion's text encoders; the second one of Stable Diffusion 3 pads with '!'."""
    vocabulary, merges = _byte_pairs()
    return CLIPTokenizer(vocab=dict(vocabulary), merges=list(merges), pad_token=pad_token, model_max_length=WINDOW)


@lru_cache(maxsize=1)
def _byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    package = Path(find_spec("open_clip").submodule_search_locations[0])  # found without importing it
    with gzip.open(package / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1:_MERGES + 1]  # line 0 is a version
    merges = [tuple(line.split()) for line in lines]
    letters = _byte_letters()
    entries = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    return {entry: index for index, entry in enumerate(entries)}, merges


def _byte_letters() -> list[str]:
    """A visible letter for every byte, in the order of the vocabulary: those that print first, then the other 68."""
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printing] + [chr(256 + n) for n in range(256 - len(printing))]
