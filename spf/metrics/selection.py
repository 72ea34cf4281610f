"""The paper's recipe for a training set: of many pictures keep those that show best what their texts say.

First the share with the highest image-text score, then those that people would like, by thresholds of preference models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from spf.clip import Clip
from spf.data.pictures import load_picture, load_whole, to_array
from spf.data.records import Record
from spf.data.writer import UPLOAD_SIDE, write_folder
from spf.errors import InvalidInput
from spf.method.phrases import join_prompt
from spf.metrics import preference

SCORED_AT_ONCE = 16
PREFERENCES = ("hps", "mps", "image_reward")


@dataclass(frozen=True)
class Scorer:
    """A judge of pictures with their whole texts; larger is better."""

    name: str
    side: int  # pixels of the square that it looks at
    score: Callable[[Tensor, tuple[str, ...]], Tensor]  # (B, 3, H, W) in [-1, 1] and B texts -> (B,)


def clip_scorer(clip: Clip, name: str = "clip") -> Scorer:
    """The cosine of picture and text."""
    def score(images: Tensor, texts: tuple[str, ...]) -> Tensor:
        return (clip.embed_images(images.to(clip.device)) * clip.embed_texts(list(texts))).sum(dim=1)

    return Scorer(name, max(clip.image_size), score)


def preference_scorer(name: str, folder: Path, device: torch.device | str = "cpu") -> Scorer:
    """HPS v2.1, MPS or ImageReward from the published files in `folder`. Raises MetricUnavailable naming file and source."""
    if name == "hps":
        return clip_scorer(preference.hps_clip(folder, device), name)
    if name in ("mps", "image_reward"):
        model = preference.mps_model(folder, device) if name == "mps" else preference.image_reward_model(folder, device)
        return Scorer(name, 224, lambda images, texts: model.score(images.to(device), texts))
    raise InvalidInput("--minimum", f"'{name}' is not known; choose one of {', '.join(PREFERENCES)}")


@torch.no_grad()
def score_records(records: Sequence[Record], scorer: Scorer) -> list[float]:
    """One number per record; every picture is judged with its base and target text together."""
    values: list[float] = []
    for start in tqdm(range(0, len(records), SCORED_AT_ONCE), desc=f"scoring by {scorer.name}", unit="batch"):
        chunk = records[start:start + SCORED_AT_ONCE]
        images = torch.stack([torch.from_numpy(to_array(load_picture(record.path, scorer.side))) for record in chunk])
        texts = tuple(join_prompt(record.base_text, [record.target_text]).text for record in chunk)
        values += scorer.score(images, texts).float().cpu().tolist()
    return values


def select(scores: Sequence[float], keep: float, further: Sequence[tuple[Sequence[float], float]] = ()) -> list[int]:
    """Rows of the `keep` share with the highest scores, rounded up, that also reach every (values, minimum); in order.

    A score that is not a number is never kept. Of equal scores the earlier row wins.
    """
    ranked = sorted((row for row, value in enumerate(scores) if math.isfinite(value)), key=lambda row: (-scores[row], row))
    best = ranked[:math.ceil(round(keep * len(scores), 9))]
    return sorted(row for row in best if all(values[row] >= minimum for values, minimum in further))


def filter_records(records: Sequence[Record], out: Path, keep: float, scorer: Scorer,
                   minima: Mapping[Scorer, float]) -> dict[str, Any]:
    """Write the pictures that are kept (of `records_to_copy`) to `out`, as a picture folder; what was kept, and every score.

    keep: share in (0, 1]. Raises DataError if `out` holds other files, InvalidInput if no picture is left.
    """
    scores = {scorer.name: score_records(records, scorer)}
    scores |= {judge.name: score_records(records, judge) for judge in minima}
    kept = select(scores[scorer.name], keep, [(scores[judge.name], minimum) for judge, minimum in minima.items()])
    if not kept:
        best = ", ".join(f"{judge.name} at most {max(scores[judge.name]):.4f}" for judge in minima)
        raise InvalidInput("--minimum", f"no picture is left ({best}); lower it, or raise --keep")
    write_folder(out, ((load_whole(record.path, UPLOAD_SIDE), record.base_text, record.target_text)
                       for record in (records[row] for row in kept)))
    return {"pictures": len(records), "kept": len(kept), "files": [records[row].path.name for row in kept],
            "scores": [{"file": record.path.name} | {name: round(values[row], 5) for name, values in scores.items()}
                       for row, record in enumerate(records)]}
