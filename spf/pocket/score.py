"""Measures an embedded model on captions and pictures that training never saw: `python -m spf pretrain score <preset>`."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spf.backbones.base import Backbone
from spf.backbones.checkpoints import load_backbone
from spf.clip import Clip
from spf.config import REPOSITORY, ModelPreset, model_preset
from spf.errors import InvalidInput
from spf.method.phrases import join_prompt
from spf.metrics.fid import frechet_distance, gaussian
from spf.pocket import calibration, contrast, renderer
from spf.pocket.autoencoder import to_images
from spf.pocket.held_out import HELD_OUT, held_out_captions, named_right, sample, share_of
from spf.pocket.pictures import portrait_at
from spf.pocket.recogniser import FOLDER, NO_TARGET, Recogniser
from spf.pocket.world import ATTRIBUTES, TARGETS, Portrait

MAX_RECONSTRUCTED = 200  # pictures for the PSNR and for the comparison of the two instruments
FULL = 500  # held-out captions of a score that is kept
MAX_CAPTIONS = 20_000
SHEET_SIDE = 10  # pictures in a row and in a column of a contact sheet


def score(preset: str, device: torch.device, count: int = FULL, sheet: Path | None = None) -> dict[str, Any]:
    """What a model's pictures show, as read by the recogniser.

    A score of FULL captions is also written to score.json in the folder of the model; one of fewer or more says less, or
    something else, and leaves that file as it is.
    count: held-out captions. sheet: PNG to write, generated pictures beside rendered ones of the same captions. Shares lie
    in [0, 1]; None where nothing was counted. 'recogniser' as preset measures the recogniser itself.
    Raises InvalidInput for a count below 2 or above MAX_CAPTIONS.
    """
    if preset == "recogniser":
        return _saved(calibration.calibrate(device), FOLDER)
    if not 2 <= count <= MAX_CAPTIONS:
        raise InvalidInput("--captions", f"must lie between 2 and {MAX_CAPTIONS} (got {count})")
    model, recogniser = model_preset(preset), Recogniser.from_folder(device=device)
    started = time.perf_counter()
    backbone = load_backbone(model, device)
    loading = time.perf_counter() - started
    drawn = [portrait_at(HELD_OUT, index, 0.0) for index in range(2 * count)]
    rendered = torch.cat([to_images(_pixels(renderer.draw(portrait, model.resolution)), device) for portrait in drawn])
    asked, (texts, named) = drawn[:count], held_out_captions(drawn[:count])
    generated = sample(backbone, model, [join_prompt(text, ()) for text in texts], range(count))
    if sheet:
        contact_sheet(generated, rendered, sheet)
    read = recogniser.read(generated)
    shares = named_right(read, asked, named)
    report = {
        "captions": count, "steps": model.num_inference_steps, "guidance_scale": model.guidance_scale,
        "named": shares, "named_mean": _mean(shares), "unnamed_entropy": unnamed_entropy(read, asked, named),
        "target_unasked": sum(value != NO_TARGET for value in read["target"]) / count,
        "target_asked": targets_shown(backbone, model, recogniser, texts),
        "frechet": distances(recogniser, generated, rendered),
        "psnr_db": psnr(backbone, rendered[:MAX_RECONSTRUCTED]),
        "seconds_per_picture": seconds_per_picture(backbone, model, texts[0]), "seconds_to_load": loading,
        "device": device.type, "threads": torch.get_num_threads(),
        "instruments": instruments(recogniser, Clip.load(model.clip).to(device), generated, rendered, asked, named),
    }
    report = _rounded(report)
    return _saved(report, REPOSITORY / model.pretrained_model_name_or_path) if count == FULL else report


def unnamed_entropy(read: dict[str, Sequence[str]], asked: Sequence[Portrait], named: Sequence[set[str]]) -> dict[str, float]:
    """Per attribute, the entropy of what is read where no caption names it, as a share of the renderer's own there."""
    shares = {}
    for attribute in ATTRIBUTES:
        rows = [row for row, names in enumerate(named) if attribute not in names]
        own = entropy([asked[row].value(attribute) for row in rows])
        shares[attribute] = entropy([read[attribute][row] for row in rows]) / own if own else math.nan
    return shares


def entropy(values: Sequence[str]) -> float:
    """Of the values' frequencies, in nats."""
    return -sum(count / len(values) * math.log(count / len(values)) for count in Counter(values).values())


def targets_shown(backbone: Backbone, model: ModelPreset, recogniser: Recogniser, texts: Sequence[str]) -> dict[str, float]:
    """Per held-out target, how often the model draws it when asked to; one caption in fifty is tried with each."""
    count = max(1, len(texts) // 50)
    shares = {}
    for position, (name, target) in enumerate(TARGETS.items()):
        rows = [(position + index * len(TARGETS)) % len(texts) for index in range(count)]
        prompts = [join_prompt(texts[row], (target.phrase,)) for row in rows]
        seen = recogniser.read(sample(backbone, model, prompts, rows))["target"]
        shares[name] = share_of([value == name for value in seen])
    return shares | {"all": _mean(shares)}


def distances(recogniser: Recogniser, generated: Tensor, rendered: Tensor) -> dict[str, float]:
    """Frechet distance of N generated pictures, and of the first N of 2N rendered ones, to the second N; and their ratio."""
    features = [recogniser.features(images).double().cpu().numpy() for images in (generated, *rendered.chunk(2))]
    generated_to, halves_to = (frechet_distance(*gaussian(some), *gaussian(features[2])) for some in features[:2])
    return {"generated": generated_to, "rendered_halves": halves_to, "ratio": generated_to / halves_to}


def seconds_per_picture(backbone: Backbone, model: ModelPreset, text: str) -> float:
    """Median of three guided pictures, one at a time, after one to warm up."""
    def once() -> float:
        started = time.perf_counter()
        sample(backbone, model, [join_prompt(text, ())], [0]).cpu()
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(3))


def instruments(recogniser: Recogniser, clip: Clip, generated: Tensor, rendered: Tensor, asked: Sequence[Portrait],
                named: Sequence[set[str]]) -> dict[str, dict[str, float]]:
    """What the two readers are worth: right on rendered pictures; and what the model's own CLIP says of the generated."""
    rendered, count = rendered[:len(asked)][:MAX_RECONSTRUCTED], min(len(asked), MAX_RECONSTRUCTED)
    everything = [set(ATTRIBUTES)] * count
    return {
        "recogniser_on_rendered": named_right(recogniser.read(rendered), asked[:count], everything),
        "clip_on_rendered": named_right(read_by_clip(clip, rendered), asked[:count], everything),
        "clip_on_generated": named_right(read_by_clip(clip, generated), asked, named),
    }


@torch.inference_mode()
def read_by_clip(clip: Clip, images: Tensor) -> dict[str, list[str]]:
    """The value of each attribute that fits each picture best, by CLIP, against all its values put into words."""
    embeddings = torch.cat([clip.embed_images(chunk) for chunk in images.split(50)])
    return {attribute: [options[index] for index in
                        (embeddings @ clip.embed_texts(contrast.attribute_prompts(attribute)).T).argmax(dim=1).tolist()]
            for attribute, options in ATTRIBUTES.items()}


@torch.inference_mode()
def psnr(backbone: Backbone, images: Tensor) -> float:
    """Mean over pictures of 10 log10(1 / mse), for values in [0, 1]."""
    decoded = torch.cat([backbone.decode(backbone.encode_images(chunk)).clamp(-1, 1) for chunk in images.split(50)])
    mse = ((decoded - images) / 2).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(1 / mse)).mean()) if math.isfinite(float(mse.sum())) else math.nan


def contact_sheet(generated: Tensor, rendered: Tensor, path: Path) -> None:
    """Up to 10x10 generated pictures on the left, the rendered ones in the same order on the right, as PNG."""
    left, right = _tiled(generated), _tiled(rendered[:len(generated)])
    gap = np.full((len(left), left.shape[1] // 50 + 1, 3), 255, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([left, gap, right], axis=1)).save(path, "PNG", optimize=True)


def as_text(report: dict[str, Any]) -> str:
    """A report of `score` for people: tables in Markdown, as in docs/pocket.md."""
    if "confusion" in report:
        return calibration.card(report)
    readers = report["instruments"]
    lines = ["| attribute | named, right | unnamed, entropy | CLIP: named, right | recogniser, rendered | CLIP, rendered |",
             "|---" * 6 + "|"]
    for attribute in ATTRIBUTES:
        cells = (report["named"], report["unnamed_entropy"], readers["clip_on_generated"], readers["recogniser_on_rendered"],
                 readers["clip_on_rendered"])
        lines.append(f"| {attribute.replace('_', ' ')} | {' | '.join(_percent(cell[attribute]) for cell in cells)} |")
    distance = report["frechet"]
    return "\n".join([
        *lines, "", f"{report['captions']} captions, {report['steps']} steps, guidance {report['guidance_scale']:g}", "",
        f"- named attributes right, on average: {_percent(report['named_mean'])}",
        f"- a held-out target where none is asked for: {_percent(report['target_unasked'])}; "
        f"the one that is asked for: {_percent(report['target_asked']['all'])}",
        f"- autoencoder: {report['psnr_db']:.1f} dB",
        f"- Frechet distance to rendered pictures: {distance['generated']:.3g}, {distance['ratio']:.1f} times that between "
        f"two rendered halves",
        f"- one guided picture: {report['seconds_per_picture']:.2f} s; loading: {report['seconds_to_load']:.2f} s "
        f"({report['device']}, {report['threads']} threads)"])


def _tiled(images: Tensor) -> np.ndarray:
    """(N, 3, H, W) in [-1, 1] -> (rows H, 10 W, 3) uint8; what is missing of the last row is white."""
    shown = images[:SHEET_SIDE ** 2].cpu()
    columns = min(SHEET_SIDE, len(shown))
    rows = -(-len(shown) // columns)
    grid = torch.ones(rows * columns, *shown.shape[1:])
    grid[:len(shown)] = shown
    grid = grid.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).reshape(rows * shown.shape[2], columns * shown.shape[3], 3)
    return ((grid + 1) * 127.5).round().byte().numpy()


def _saved(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the report beside training.json; a model that is no folder of its own keeps none."""
    if not folder.is_dir():
        return report
    staged = folder / "score.json.partial"
    staged.write_text(json.dumps(report, indent=1), encoding="utf-8")
    os.replace(staged, folder / "score.json")
    return report


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _mean(shares: dict[str, float]) -> float:
    return sum(shares.values()) / len(shares)


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture)[None]
