"""How well the recogniser reads, on rendered pictures that it never saw: `python -m spf pretrain score recogniser`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spf.backbones.base import Backbone
from spf.backbones.checkpoints import load_backbone
from spf.config import home, model_preset
from spf.pocket.autoencoder import to_images
from spf.pocket.pictures import mask_set, picture_set
from spf.pocket.recogniser import READABLE, SIZE, Recogniser
from spf.pocket.recognition import UNKNOWN, blurred, label_rows, unpack_masks

HELD_OUT, TARGET_SHARE = "recogniser", 0.3  # a stream of portraits that is never trained on
BLUR, NOISE, SHIFT = 1.0, 0.1, 0.06  # as MAX_BLUR, MAX_NOISE and MAX_SHIFT of training, but always at full strength
Disturbance = Callable[[Tensor], Tensor]


def calibrate(device: torch.device, count: int = 500, masked: int = 150, model: str = "pocket") -> dict[str, Any]:
    """Accuracy and confusion per attribute and IoU per part, as rendered and under each disturbance.

    Attributes count where they can be seen. A part's IoU is taken over all pixels of all `masked` pictures together.
    """
    folder, recogniser = home() / "pretrain" / "recogniser", Recogniser.from_folder(device=device)
    pictures = picture_set(folder, HELD_OUT, count, TARGET_SHARE, SIZE)
    images, labels = to_images(pictures.pixels, device), label_rows(pictures.portraits)
    truth = unpack_masks(mask_set(folder, HELD_OUT, masked, TARGET_SHARE, SIZE)).bool()
    report: dict[str, Any] = {"pictures": count, "masked": masked, "accuracy": {}, "iou": {}}
    for name, disturb in disturbances(load_backbone(model_preset(model), device)).items():
        seen = torch.cat([disturb(chunk) for chunk in images.split(50)])
        read = recogniser.read(seen)
        tables = {attribute: confusion(read[attribute].indices, labels[:, column].tolist(), len(options))
                  for column, (attribute, options) in enumerate(READABLE.items())}
        report["accuracy"][name] = {attribute: accuracy(table) for attribute, table in tables.items()}
        report["iou"][name] = _iou_by_part(recogniser, seen[:masked], truth)
        if name == "rendered":
            report["confusion"] = {attribute: table.tolist() for attribute, table in tables.items()}
    return report


def disturbances(backbone: Backbone) -> dict[str, Disturbance]:
    """What generated pictures show and rendered ones do not, each always the same for the same pictures (B, 3, 128, 128)."""
    def noisy(images: Tensor) -> Tensor:
        return images + NOISE * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images.device)

    def shifted(images: Tensor) -> Tensor:
        signs = torch.randint(2, (2, len(images), 3, 1, 1), generator=torch.Generator().manual_seed(0)).to(images.device) * 2 - 1
        return images * (1 + SHIFT * signs[0]) + SHIFT * signs[1]

    @torch.inference_mode()
    def softened(images: Tensor) -> Tensor:
        return backbone.decode(backbone.encode_images(images))

    each = {"rendered": lambda images: images, "blur": lambda images: blurred(images, torch.full((len(images),), BLUR)),
            "noise": noisy, "colour shift": shifted, "autoencoder": softened}
    return {name: lambda images, disturb=disturb: disturb(images).clamp(-1, 1) for name, disturb in each.items()}


def confusion(read: list[int], truth: list[int], options: int) -> np.ndarray:
    """How often each value (row) was read as each value (column); rows that cannot be seen are left out."""
    table = np.zeros((options, options), np.int64)
    for seen, value in zip(read, truth, strict=True):
        if value != UNKNOWN:
            table[value, seen] += 1
    return table


def accuracy(table: np.ndarray) -> float | None:
    """Share of a confusion's diagonal; None if nothing was counted."""
    return round(float(table.trace() / table.sum()), 4) if table.any() else None


def part_iou(masks: Tensor, truth: Tensor) -> list[float]:
    """Intersection over union of bool masks (B, P, H, W), per part over all pictures."""
    both, either = (masks & truth).sum(dim=(0, 2, 3)), (masks | truth).sum(dim=(0, 2, 3))
    return (both / either).tolist()


def _iou_by_part(recogniser: Recogniser, images: Tensor, truth: Tensor) -> dict[str, float]:
    values = part_iou(recogniser.parse(images).cpu() > 0.5, truth)
    named = dict(zip([*recogniser.parts, "mean"], [*values, float(np.mean(values))], strict=True))
    return {part: round(value, 4) for part, value in named.items()}


def card(report: dict[str, Any]) -> str:
    """The report as the two tables and the list of confusions of docs/pocket.md."""
    conditions = list(report["accuracy"])
    header = [f"| | {' | '.join(conditions)} |", "|---" * (len(conditions) + 1) + "|"]
    right = [_row(name.replace("_", " "), [f"{report['accuracy'][c][name]:.1%}" for c in conditions]) for name in READABLE]
    iou = [_row(part, [f"{report['iou'][c][part]:.3f}" for c in conditions]) for part in report["iou"]["rendered"]]
    return "\n".join([*header, *right, "", *header, *iou, "", *_confusions(report["confusion"])])


def _row(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _confusions(tables: dict[str, list[list[int]]]) -> list[str]:
    """'- hair style: 4 of 906: pixie as short 3, bob as long 1'"""
    lines = []
    for name, options in READABLE.items():
        table = np.array(tables[name])
        pairs = [(int(table[a, b]), f"{options[a]} as {options[b]}") for a, b in np.argwhere(table) if a != b]
        wrong = sorted(pairs, reverse=True)
        listed = ", ".join(f"{words} {count}" for count, words in wrong)
        lines.append(f"- {name.replace('_', ' ')}: {sum(count for count, _ in wrong)} of {table.sum()}"
                     + (f": {listed}" if listed else ""))
    return lines
