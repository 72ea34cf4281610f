"""CLIP embeddings by open_clip: of texts, cached by string, and of images, with gradient to the image."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from spf.config import REPOSITORY
from spf.errors import ModelNotFound

_CONFIG, _WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


class Clip:
    """A frozen CLIP. Embeddings are L2-normalised, (B, D) float32."""

    def __init__(self, model: open_clip.CLIP, tokenize, mean: tuple[float, ...], std: tuple[float, ...]):
        self.model = model.float().eval().requires_grad_(False)
        self._tokenize = tokenize
        self._texts: dict[str, Tensor] = {}
        size = model.visual.image_size
        self.image_size = size if isinstance(size, tuple) else (size, size)
        self._mean, self._std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))

    @classmethod
    def load(cls, where: str) -> Clip:
        """What a preset's `clip` says: a folder (relative to the repository), or 'model:pretrained' of open_clip, where
        pretrained is one of its tags, read from the local hub cache, or a .safetensors file.

        Raises ModelNotFound naming what is missing or damaged.
        """
        if (problem := missing(where)) is not None:
            raise ModelNotFound(f"clip: {problem}.")
        name, _, tag = where.partition(":")
        if not tag:
            return cls.from_folder(REPOSITORY / where)
        settings = open_clip.get_pretrained_cfg(name, tag) or {}
        try:
            model = open_clip.create_model(name, force_quick_gelu=settings.get("quick_gelu", False))
            model.load_state_dict(load_file(_published_weights(name, tag)))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).split("\n")[0]
            raise ModelNotFound(f"clip: the file of '{where}' is damaged ({reason}); get it again.") from error
        return cls(model, open_clip.get_tokenizer(name), settings.get("mean") or OPENAI_DATASET_MEAN,
                   settings.get("std") or OPENAI_DATASET_STD)

    @classmethod
    def from_folder(cls, folder: Path) -> Clip:
        """An open_clip folder with a `tokenizer/` in CLIPTokenizer format.

        Raises ModelNotFound naming what is missing or damaged.
        """
        if (missing := missing_file(folder)) is not None:
            raise ModelNotFound(f"clip: {missing} does not exist; restore it or choose another model.")
        try:
            preprocess = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))["preprocess_cfg"]
            model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = str(error).split("\n")[0]
            raise ModelNotFound(f"clip: a file of {folder} is damaged ({reason}); restore the folder.") from error
        return cls(model, _ClipTokens(tokenizer), preprocess["mean"], preprocess["std"])

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    def to(self, device: torch.device) -> Clip:
        self.model.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        self._texts.clear()
        return self

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """(N, D) for N texts; every distinct string is encoded once in the life of this object."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:
            embedded = self.model.encode_text(self._tokenize(new).to(self.device), normalize=True)
            self._texts.update(zip(new, embedded.float(), strict=True))
        if not texts:
            return torch.zeros(0, self.model.text_projection.shape[-1], device=self.device)
        return torch.stack([self._texts[text] for text in texts])

    def know(self, embeddings: dict[str, Tensor]) -> None:
        """Take over embeddings (D,) of texts that this CLIP computed in an earlier life."""
        self._texts.update(embeddings)

    def embed_text_lists(self, texts: list[list[str]]) -> Tensor:
        """(B, P, D) for B lists of at most P texts, zero rows where a list is shorter."""
        longest = max(map(len, texts), default=0)
        width = self.model.text_projection.shape[-1]
        padded = torch.zeros(len(texts), longest, width, device=self.device)
        for row, items in enumerate(texts):
            padded[row, :len(items)] = self.embed_texts(items)
        return padded

    def embed_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [-1, 1] -> (B, D), with gradient; clamped and resized (bicubic, antialiased) first (D16)."""
        images = images.float().clamp(-1, 1) / 2 + 0.5
        if images.shape[-2:] != self.image_size:
            images = F.interpolate(images, self.image_size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        return self.model.encode_image((images - self._mean) / self._std, normalize=True).float()


def missing_file(folder: Path) -> Path | None:
    """The first file of a CLIP folder that is not there; without it open_clip would quietly return random weights, and
    transformers an empty vocabulary."""
    names = (_CONFIG, _WEIGHTS, "tokenizer/tokenizer.json")
    return next((folder / name for name in names if not (folder / name).is_file()), None)


def missing(where: str) -> str | None:
    """What of a preset's `clip` is not on this computer, and the remedy; None if all is there. Goes to no network."""
    name, _, tag = where.partition(":")
    if not tag:
        file = missing_file(REPOSITORY / where)
        return None if file is None else f"{file} does not exist; restore it or choose another model"
    if name not in open_clip.list_models():
        return f"'{name}' is no model of open_clip; correct 'clip' in the preset"
    if tag.endswith(".safetensors"):
        return None if _published_weights(name, tag) else f"{REPOSITORY / tag} does not exist; correct 'clip' in the preset"
    if not (open_clip.get_pretrained_cfg(name, tag) or {}).get("hf_hub"):
        return f"'{tag}' is no published version of open_clip's '{name}'; correct 'clip' in the preset"
    if _published_weights(name, tag) is None:
        return f"'{where}' is not on this computer; get it with 'python -m spf download' and the model's name"
    return None


def _published_weights(name: str, tag: str) -> Path | None:
    """A file, or a published version's copy in the local hub cache. Safetensors only."""
    if tag.endswith(".safetensors"):
        path = REPOSITORY / Path(tag).expanduser()
        return path if path.is_file() else None
    found = try_to_load_from_cache(hub_id(name, tag), _WEIGHTS)
    return Path(found) if isinstance(found, str) else None


def download(where: str) -> None:
    """Fetch a published version into the local hub cache, if it is not there. Raises ModelNotFound."""
    name, _, tag = where.partition(":")
    if missing(where) is None:
        return
    try:
        hf_hub_download(hub_id(name, tag), _WEIGHTS, etag_timeout=5)
    except (OSError, KeyError, TypeError) as error:
        reason = str(error).split("\n")[0][:160]
        raise ModelNotFound(f"clip: '{where}' cannot be downloaded ({reason}); check the connection.") from None


def hub_id(name: str, tag: str) -> str:
    """The hub repository of a published version, as open_clip knows it."""
    return open_clip.get_pretrained_cfg(name, tag)["hf_hub"].rstrip("/")


class _ClipTokens:
    """CLIPTokenizer ids as open_clip wants them: zeros after the end token, which it finds as the largest id."""

    def __init__(self, tokenizer: CLIPTokenizer):
        self._tokenizer = tokenizer

    def __call__(self, texts: list[str]) -> Tensor:
        encoded = self._tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return encoded.input_ids * encoded.attention_mask
