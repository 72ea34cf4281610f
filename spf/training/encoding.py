"""Pictures, prompts and phrases to tensors, each distinct one once, and not at all where an earlier run left it on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from spf.backbones.base import Backbone, TextFeatures
from spf.backbones.fingerprints import Fingerprints, backbone_fingerprints, module_fingerprint
from spf.clip import Clip
from spf.config import Crop
from spf.data.batches import MixedLatents, joined
from spf.data.buckets import bucket_of
from spf.data.cache import Entry, TensorCache, key_of
from spf.data.pictures import Shape, load_picture, to_array, upright_size
from spf.data.records import Record
from spf.method.phrases import Phrase, Prompt

PICTURES_AT_ONCE = 16
PROMPTS_AT_ONCE = 64
_PADDED = {"phrase_weights": "phrases", "target_weights": "targets"}  # features with one column for each of these


@dataclass(eq=False)
class Encoder:
    """A model's frozen encoders with a cache in front; without one, every distinct input is still encoded only once."""

    backbone: Backbone
    clip: Clip
    cache: TensorCache | None = None

    def __post_init__(self) -> None:
        self.device = self.clip.device
        if self.cache:
            self._own: Fingerprints = backbone_fingerprints(self.backbone)
            self._clip = module_fingerprint(self.clip.model)

    def pictures(self, records: Sequence[Record], resolution: int, crop: Crop, in_buckets: bool = False
                 ) -> tuple[Tensor | MixedLatents, Tensor]:
        """Latents (N, C, h, w) and CLIP embeddings (N, D). Raises BadPicture naming a file that cannot be read.

        `in_buckets`: each picture in its bucket's shape instead of the square of `resolution`.
        """
        paths, square = [record.path for record in records], (resolution, resolution)
        shapes = {path: bucket_of(upright_size(path), resolution) if in_buckets else square for path in dict.fromkeys(paths)}
        keys = self._keys(shapes, lambda path: {
            "kind": "picture", "sha256": _sha256(path), "resolution": resolution, "crop": crop,
            "vae": self._own.pictures, "clip": self._clip} | ({} if shapes[path] == square else {"shape": shapes[path]}))
        found = self._lookup(keys)
        missing = [path for path in keys if path not in found]
        for chunk in tqdm(_alike(missing, shapes), desc="encoding pictures", unit="batch", disable=not missing):
            shape = shapes[chunk[0]]
            pixels = torch.stack([torch.from_numpy(to_array(load_picture(path, shape, crop))) for path in chunk])
            pixels = pixels.to(self.device)
            encoded = zip(self.backbone.encode_images(pixels), self.clip.embed_images(pixels), strict=True)
            for path, (latents, embedding) in zip(chunk, encoded, strict=True):
                found[path] = self._remember(keys[path], Entry({"latents": latents, "image_embedding": embedding}))
        latents, embeddings = ([found[path].tensors[name].to(self.device) for path in paths]
                               for name in ("latents", "image_embedding"))
        return joined(latents), torch.stack(embeddings)

    def prompts(self, prompts: Sequence[Prompt]) -> TextFeatures:
        """What `Backbone.encode_prompts` gives. Raises InvalidInput for a target that does not fit."""
        keys = self._keys(dict.fromkeys(prompts), lambda prompt: {
            "kind": "prompt", "prompt": asdict(prompt), "encoders": self._own.texts})
        found = self._lookup(keys)
        missing = [prompt for prompt in keys if prompt not in found]
        for start in range(0, len(missing), PROMPTS_AT_ONCE):
            chunk = missing[start:start + PROMPTS_AT_ONCE]
            features = self.backbone.encode_prompts(chunk)
            for row, prompt in enumerate(chunk):
                found[prompt] = self._remember(keys[prompt], _entry_of(features[[row]]))
        return _features_of([found[prompt] for prompt in prompts]).to(self.device)

    def learn_texts(self, texts: Sequence[str]) -> None:
        """Let the CLIP know the embeddings of all these strings."""
        keys = self._keys(dict.fromkeys(texts), lambda text: {"kind": "text", "text": text, "clip": self._clip})
        found = self._lookup(keys)
        self.clip.know({text: entry.tensors["embedding"].to(self.device) for text, entry in found.items()})
        missing = [text for text in keys if text not in found]
        for text, embedding in zip(missing, self.clip.embed_texts(missing), strict=True):
            self._remember(keys[text], Entry({"embedding": embedding}))

    def _keys(self, items: dict, parts: Callable[..., dict]) -> dict:
        """Item -> its key in the cache; "" for all of them without one."""
        if not self.cache:
            return dict.fromkeys(items, "")
        return {item: key_of(device=self.device.type, **parts(item)) for item in items}

    def _lookup(self, keys: dict) -> dict:
        """Item -> entry, of those that the cache holds."""
        if not self.cache:
            return {}
        return {item: entry for item, key in keys.items() if (entry := self.cache.get(key)) is not None}

    def _remember(self, key: str, entry: Entry) -> Entry:
        if self.cache:
            self.cache.put(key, entry)
        return entry


def _alike(paths: Sequence[Path], shapes: Mapping[Path, Shape]) -> list[list[Path]]:
    """The paths in pieces of at most PICTURES_AT_ONCE, each of one shape."""
    groups = [[path for path in paths if shapes[path] == shape] for shape in dict.fromkeys(shapes[path] for path in paths)]
    return [group[start:start + PICTURES_AT_ONCE] for group in groups for start in range(0, len(group), PICTURES_AT_ONCE)]


def _entry_of(features: TextFeatures) -> Entry:
    """One prompt's features, without the columns that pad it to longer prompts."""
    (prompt,) = features.prompts
    tensors = {field.name: value[0] for field in fields(features)
               if isinstance(value := getattr(features, field.name), Tensor)}
    for name, items in _PADDED.items():
        tensors[name] = tensors[name][..., :len(getattr(prompt, items))]
    return Entry(tensors, json.dumps(asdict(prompt)))


def _features_of(entries: Sequence[Entry]) -> TextFeatures:
    """The features of a batch of prompts, padded to the longest."""
    stacked = {}
    for name in entries[0].tensors:
        rows = [entry.tensors[name] for entry in entries]
        width = max(row.shape[-1] for row in rows)
        stacked[name] = torch.stack([F.pad(row, (0, width - row.shape[-1])) for row in rows])
    return TextFeatures(**stacked, prompts=tuple(_prompt_of(json.loads(entry.note)) for entry in entries))


def _prompt_of(values: dict) -> Prompt:
    """The inverse of `asdict`."""
    return Prompt(values["text"], Phrase(**values["base"]), *(
        tuple(Phrase(**phrase) for phrase in values[name]) for name in ("targets", "phrases")))


def _sha256(path: Path) -> str:
    """Of a picture's file. A file that cannot be read has no hash; `load_picture` will say what is wrong with it."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
