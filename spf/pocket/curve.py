"""What a model that is still being trained can do: the curve of scores against samples seen that pre-training keeps.

Few cases, drawn from the held-out stream of `score`, so that a point costs seconds; the figures in the documents are `score`'s.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from open_clip import CLIP
from torch import Tensor
from transformers import CLIPTokenizer

from spf.backbones.checkpoints import load_backbone
from spf.config import ModelPreset
from spf.method.phrases import join_prompt
from spf.pocket import contrast, renderer
from spf.pocket.autoencoder import to_images
from spf.pocket.held_out import HELD_OUT, held_out_captions, named_right, sample
from spf.pocket.pictures import portrait_at
from spf.pocket.recogniser import Recogniser
from spf.pocket.world import ATTRIBUTES, Portrait

CAPTIONS, PICTURES = 24, 64


def append(folder: Path, part: str, samples: int, scores: dict[str, float]) -> dict:
    """Add a point to `curve.jsonl`; also returns it."""
    point = {"part": part, "samples": samples} | {name: round(value, 4) for name, value in scores.items()}
    with open(folder / "curve.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(point) + "\n")
    return point


def begin_from(folder: Path, points: list[dict]) -> None:
    """Write `curve.jsonl` anew, with the points of a model that is gone on from."""
    (folder / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points), encoding="utf-8")


def points(folder: Path) -> list[dict]:
    """The curve so far, oldest first."""
    path = folder / "curve.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@torch.inference_mode()
def autoencoder_scores(network: AutoencoderTiny, size: int, device: torch.device) -> dict[str, float]:
    """Mean PSNR over held-out renderings, in dB."""
    images = _rendered(PICTURES, size, device)[1]
    decoded = network.decode(network.encode(images).latents).sample.clamp(-1, 1)
    return {"psnr_db": float((-10 * ((decoded - images) / 2).square().mean(dim=(1, 2, 3)).log10()).mean())}


@torch.inference_mode()
def clip_scores(network: CLIP, tokenizer: CLIPTokenizer, size: int, device: torch.device) -> dict[str, float]:
    """Share of held-out renderings whose value of an attribute fits best among all its values, put into words."""
    portraits, images = _rendered(PICTURES, size, device)
    pictures = network.encode_image(images).float()
    read = {}
    for attribute, options in ATTRIBUTES.items():
        texts = contrast.encode_text(network, tokenizer, contrast.attribute_prompts(attribute))
        read[attribute] = [options[index] for index in (pictures @ texts.T).argmax(dim=1).tolist()]
    return _with_mean(named_right(read, portraits, [set(ATTRIBUTES)] * len(portraits)))


def denoiser_scores(model: ModelPreset, device: torch.device) -> dict[str, float]:
    """Share of the attributes that captions name which the pictures show, as read by the recogniser."""
    asked = [portrait_at(HELD_OUT, index, 0.0) for index in range(CAPTIONS)]
    texts, named = held_out_captions(asked)
    images = sample(load_backbone(model, device), model, [join_prompt(text, ()) for text in texts], range(CAPTIONS))
    return _with_mean(named_right(Recogniser.from_folder(device=device).read(images), asked, named))


def _rendered(count: int, size: int, device: torch.device) -> tuple[list[Portrait], Tensor]:
    portraits = [portrait_at(HELD_OUT, index, 0.0) for index in range(count)]
    return portraits, to_images(np.stack([np.asarray(renderer.draw(portrait, size)) for portrait in portraits]), device)


def _with_mean(shares: dict[str, float]) -> dict[str, float]:
    return shares | {"mean": float(np.nanmean(list(shares.values())))}
