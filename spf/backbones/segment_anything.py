"""SAM as a finder of unnamed segments: the automatic masks of a picture, with the settings that its authors publish."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import SamImageProcessorPil, SamModel

from spf.errors import ModelNotFound

POINTS_PER_SIDE = 32
POINTS_AT_ONCE = 64
# Kirillov et al. 2023, automatic mask generation
PREDICTED_IOU, STABILITY, BOX_OVERLAP = 0.88, 0.95, 0.7
_OFFSET = 1.0  # of the logits, up and down, over which a stable mask keeps its area


class SegmentAnything:
    """A transformers folder of SAM; `name` says which."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        """Raises ModelNotFound if the folder is damaged or holds something else."""
        self.name = f"SAM ({folder.name})"
        try:
            self.model = SamModel.from_pretrained(folder, local_files_only=True).eval().to(device)
            self.processor = SamImageProcessorPil.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelNotFound(f"Seg-Cons: {folder} cannot be used ({str(error).splitlines()[0]}); get it again.") from None

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> np.ndarray:
        """(3, H, W) RGB in [-1, 1] -> (S, H, W) bool, the best predicted first"""
        pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        inputs = self.processor(pixels, return_tensors="pt")
        features = self.model.get_image_embeddings(inputs["pixel_values"].to(self.model.device))
        masks, scores = zip(*(self._segments(points, features, inputs) for points in
                              _grid(inputs["reshaped_input_sizes"][0]).split(POINTS_AT_ONCE)), strict=True)
        masks, scores = np.concatenate(masks), np.concatenate(scores)
        return masks[distinct(boxes(masks), scores, BOX_OVERLAP)]

    def _segments(self, points: Tensor, features: Tensor, inputs) -> tuple[np.ndarray, np.ndarray]:
        """The masks (S, H, W) around some points (P, 2) that are sure and stable, and their predicted IoU (S,)."""
        device = self.model.device
        found = self.model(image_embeddings=features, input_points=points[None, :, None].to(device),
                           input_labels=torch.ones(1, len(points), 1, dtype=torch.int64, device=device))
        logits = self.processor.post_process_masks(
            found.pred_masks.cpu(), inputs["original_sizes"], inputs["reshaped_input_sizes"], binarize=False)[0].flatten(0, 1)
        scores = found.iou_scores[0].flatten().cpu()
        inner, outer = ((logits > offset).sum(dim=(1, 2)) for offset in (_OFFSET, -_OFFSET))
        keep = (scores > PREDICTED_IOU) & (inner >= STABILITY * outer) & (logits > 0).any(dim=2).any(dim=1)
        return (logits[keep] > 0).numpy(), scores[keep].numpy()


def _grid(size: Tensor) -> Tensor:
    """(P, 2): x, y of evenly spread points on the picture as the network sees it, `size` being its height and width."""
    steps = (torch.arange(POINTS_PER_SIDE) + 0.5) / POINTS_PER_SIDE
    y, x = torch.meshgrid(steps * float(size[0]), steps * float(size[1]), indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def boxes(masks: np.ndarray) -> np.ndarray:
    """(S, 4): left, top, right, bottom of each mask (S, H, W) bool, none of them empty; right and bottom are outside."""
    found = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        found.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return np.array(found, float).reshape(-1, 4)


def distinct(corners: np.ndarray, scores: np.ndarray, overlap: float) -> list[int]:
    """Which boxes (S, 4) remain, best first, when each removes those that overlap it by more than this IoU."""
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    left, kept = list(np.argsort(-scores, kind="stable")), []
    while left:
        best, *left = left
        kept.append(int(best))
        shared = np.minimum(corners[best, 2:], corners[left, 2:]) - np.maximum(corners[best, :2], corners[left, :2])
        both = shared.clip(min=0).prod(axis=1)
        left = [other for other, iou in zip(left, both / (areas[best] + areas[left] - both), strict=True) if iou <= overlap]
    return kept
