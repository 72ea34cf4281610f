"""Which networks stand behind which column: the embedded ones, which are always here, or published ones if asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spf.clip import Clip
from spf.config import REPOSITORY, EvaluationConfig, ModelPreset, home
from spf.errors import InvalidInput
from spf.evaluation.store import fingerprint
from spf.metrics import attributes, clip_score, fid, identity, lpips, preference, preservation, segmentation
from spf.metrics.base import Metric, MetricUnavailable
from spf.pocket import recogniser as ruler
from spf.pocket import renderer
from spf.pocket.autoencoder import to_images
from spf.pocket.pictures import portrait_at
from spf.pocket.recogniser import Recogniser

EMBEDDED_CLIP = "embedded CLIP"
FACE_SHARE = 0.01  # of the picture that must be skin, to call it a face
FACE_MARGIN = 0.25  # of the face's box, added on every side
COMMON_FACES = 48  # rendered faces whose mean embedding is common to all
GROUPS = ("fid", "lpips", "id", "clip", "seg_cons", "hps", "mps")  # what `backends` may name


@dataclass(frozen=True, eq=False)
class Columns:
    metrics: tuple[Metric, ...]
    unavailable: Mapping[str, str]  # group -> why, in words
    fingerprint: str  # of the embedded weights


def columns(config: EvaluationConfig, preset: ModelPreset, device: torch.device) -> Columns:
    """The metrics of an evaluation. What is missing is said in `unavailable`, never replaced by something else.

    Raises InvalidInput for a backend of no metric, ModelNotFound where an embedded network is missing.
    """
    if unknown := [group for group in config.backends if group not in GROUPS]:
        raise InvalidInput("backends", f"'{unknown[0]}' is not known; choose from {', '.join(GROUPS)}")
    weights = Path(config.weights) if config.weights else home() / "metrics"
    reader = remembered(Recogniser.from_folder(ruler.FOLDER, device))
    clip = remembered_clip(Clip.load(preset.clip).to(device))
    embedded, published = _embedded(reader, clip), _published(weights, device)
    found: list[Metric] = []
    unavailable: dict[str, str] = {}
    for group in GROUPS:
        try:
            found += (published if config.backends.get(group) == "published" else embedded)[group]()
        except MetricUnavailable as error:
            unavailable[group] = str(error)
    found += [*attributes.metrics(reader), *preservation.metrics(RecogniserLayers(reader))]
    return Columns(tuple(found), unavailable, fingerprint(ruler.FOLDER, REPOSITORY / preset.clip))


def _embedded(reader: Recogniser, clip: Clip) -> dict[str, Callable[[], list[Metric]]]:
    features = RecogniserFeatures(reader)
    return {
        "fid": lambda: fid.metrics(features, features.width),
        "lpips": lambda: [lpips.metric(lpips.Lpips(RecogniserLayers(reader)))],
        "id": lambda: [identity.metric(RecogniserFaces(reader))],
        "clip": lambda: clip_score.metrics(clip, EMBEDDED_CLIP),
        "seg_cons": lambda: [segmentation.metric(segmentation.PartConsistency(BaseParts(reader)))],
        "hps": lambda: [preference.hps(clip, EMBEDDED_CLIP)],
        "mps": lambda: preference.mps(preference.ClipPreference(clip, EMBEDDED_CLIP)),
    }


def _published(weights: Path, device: torch.device) -> dict[str, Callable[[], list[Metric]]]:
    return {
        "fid": lambda: fid.metrics(fid.Inception(weights, device), fid.Inception.width),
        "lpips": lambda: [lpips.metric(lpips.published(weights, device))],
        "id": lambda: [identity.metric(identity.SFace(weights))],
        "clip": lambda: clip_score.metrics(remembered_clip(clip_score.vit_large(weights, device)), "CLIP ViT-L/14"),
        "seg_cons": lambda: [segmentation.metric(segmentation.sam(weights, device))],
        "mps": lambda: preference.mps(preference.mps_model(weights, device)),
        "hps": lambda: [preference.hps(preference.hps_clip(weights, device), "HPS v2.1")],
    }


def remembered(reader: Recogniser) -> Recogniser:
    """The same recogniser, which looks at one batch of pictures once, however many columns ask. Pictures must not change."""
    for name in ("read", "parse", "features"):
        setattr(reader, name, lru_cache(maxsize=4)(getattr(reader, name)))  # tensors are told apart by identity
    return reader


def remembered_clip(clip: Clip) -> Clip:
    clip.embed_images = lru_cache(maxsize=4)(clip.embed_images)
    return clip


class RecogniserFeatures:
    """What the recogniser reads attributes from, for distances between sets."""

    def __init__(self, reader: Recogniser):
        self.reader, self.name = reader, reader.name
        self.width = reader.network.logits.in_features

    def __call__(self, images: Tensor) -> Tensor:
        return self.reader.features(images)


class RecogniserLayers:
    """The recogniser's grids, finest first."""

    def __init__(self, reader: Recogniser):
        self.reader, self.name = reader, reader.name
        self._pyramid = lru_cache(maxsize=4)(self._layers)

    def __call__(self, images: Tensor) -> list[Tensor]:
        return self._pyramid(images)

    @torch.inference_mode()
    def _layers(self, images: Tensor) -> list[Tensor]:
        device = next(self.reader.network.parameters()).device
        return self.reader.network.pyramid(lpips.resized(images.to(device), (ruler.SIZE, ruler.SIZE)))


class BaseParts:
    """The parts that every original has; the target itself is no part of what should stay."""

    def __init__(self, reader: Recogniser):
        self.reader, self.name = reader, reader.name
        self._kept = [index for index, part in enumerate(reader.parts) if part != "target"]

    def parse(self, images: Tensor) -> Tensor:
        return self.reader.parse(images)[:, self._kept]


class RecogniserFaces:
    """The recogniser's features of the face cut out, without what all faces have in common: strangers lie around 0."""

    def __init__(self, reader: Recogniser):
        self.reader, self.name = reader, f"{reader.name} on the face"
        faces = [renderer.draw(portrait_at("faces", index, 0.0)) for index in range(COMMON_FACES)]
        device = next(reader.network.parameters()).device
        rendered = to_images(np.stack([np.asarray(face) for face in faces]), device)
        self._common = torch.zeros((), device=device)
        self._common = self(rendered).nanmean(dim=0)

    def __call__(self, images: Tensor) -> Tensor:
        skin = self.reader.parse(images)[:, self.reader.parts.index("skin")] > 0.5  # (B, H, W)
        crops = [face_crop(picture, mask) for picture, mask in zip(images, skin, strict=True)]
        embeddings = torch.full((len(images), self.reader.network.logits.in_features), torch.nan, device=self._common.device)
        found = [index for index, crop in enumerate(crops) if crop is not None]
        if found:
            faces = [lpips.resized(crops[index][None], (ruler.SIZE, ruler.SIZE)) for index in found]
            embeddings[found] = self.reader.features(torch.cat(faces)) - self._common
        return embeddings


def face_crop(picture: Tensor, skin: Tensor) -> Tensor | None:
    """The square around the skin (H, W) bool of a picture (3, H, W), with a margin; None where there is too little skin."""
    if skin.float().mean() < FACE_SHARE:
        return None
    rows, columns = skin.any(dim=1).nonzero().flatten(), skin.any(dim=0).nonzero().flatten()
    center = (rows[0] + rows[-1]).item() / 2, (columns[0] + columns[-1]).item() / 2
    side = int((1 + 2 * FACE_MARGIN) * (max(rows[-1] - rows[0], columns[-1] - columns[0]).item() + 1))
    top, left = (int(middle - side / 2 + 0.5) for middle in center)
    return picture[:, max(0, top):top + side, max(0, left):left + side]
