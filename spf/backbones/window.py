"""Whether a model can read a training text, found out from its tokenizers alone: no weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import CLIPTokenizer, T5Tokenizer

from spf.backbones.mmdit import T5_WINDOW
from spf.backbones.source import require_model
from spf.backbones.tokens import Reader
from spf.backbones.vocabulary import clip_tokenizer
from spf.config import ModelPreset
from spf.errors import ModelNotFound
from spf.method.phrases import drop_last_phrase, join_prompt


def caption_window(preset: ModelPreset) -> Callable[[str, str], tuple[bool, str] | None]:
    """A function of (base text, target text): None if both fit the model's text encoders, else (usable, what to do).

    Usable are texts of which the last phrases of the base text will be left out (D3). Raises ModelNotFound.
    """
    readers = _readers(require_model(preset))

    def complaint(base_text: str, target_text: str) -> tuple[bool, str] | None:
        prompt = join_prompt(base_text, [target_text])
        length, window = _longest(prompt.text, readers)
        if length <= window:
            return None
        told = f"both texts need {length} tokens and the model reads {window}"
        while len(prompt.phrases) > 1:
            prompt = drop_last_phrase(prompt)
            needed, window = _longest(prompt.text, readers)
            if needed <= window:
                return True, f"{told}; the end of base_text will be left out, after '{prompt.base.text[-40:]}'"
        return False, f"{told}; shorten them"

    return complaint


def _longest(text: str, readers: list[Reader]) -> tuple[int, int]:
    """(tokens, window) of the reader that the text fits worst."""
    return max(((reader.length(text), reader.window) for reader in readers), key=lambda pair: pair[0] - pair[1])


def _readers(path: Path) -> list[Reader]:
    if path.is_file():  # a single file holds no tokenizer; its model reads with the published one
        tokenizer = clip_tokenizer()
        return [Reader(tokenizer, tokenizer.model_max_length)]
    try:
        found = [CLIPTokenizer.from_pretrained(folder, local_files_only=True)
                 for name in ("tokenizer", "tokenizer_2") if (folder := path / name).is_dir()]
        readers = [Reader(tokenizer, tokenizer.model_max_length) for tokenizer in found]
        if (path / "text_encoder_3").is_dir() and (path / "tokenizer_3").is_dir():
            tokenizer = T5Tokenizer.from_pretrained(path / "tokenizer_3", local_files_only=True)
            readers.append(Reader(tokenizer, min(tokenizer.model_max_length, T5_WINDOW)))
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ModelNotFound(f"model: a tokenizer of {path} is damaged ({reason}); restore the folder.") from error
    return readers
