"""ID: cosine of the face embeddings of original and customized portrait. A pair without a face is named, not scored."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spf.metrics.base import Metric, MetricUnavailable, Pairs, Rows
from spf.metrics.weights import Published, find

DETECTOR = Published("ID", "face_detection_yunet_2023mar.onnx",
                     "https://github.com/opencv/opencv_zoo, models/face_detection_yunet (MIT)")
RECOGNISER = Published("ID", "face_recognition_sface_2021dec.onnx",
                       "https://github.com/opencv/opencv_zoo, models/face_recognition_sface (Apache-2.0)")


class FaceEmbedder(Protocol):
    name: str

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [-1, 1] -> (B, F) embeddings of the largest face, a row of NaN where there is none."""


class Identity:
    def __init__(self, faces: FaceEmbedder):
        self.faces, self.name = faces, faces.name

    @torch.no_grad()
    def __call__(self, pairs: Pairs) -> Rows:
        a, b = self.faces(pairs.original).double().cpu(), self.faces(pairs.customized).double().cpu()
        missing = zip(a.isnan().any(dim=1).tolist(), b.isnan().any(dim=1).tolist(), strict=True)
        problems = [_NO_FACE[found] for found in missing]
        return Rows.of(torch.cosine_similarity(a, b, dim=1).numpy(), problems)


_NO_FACE = {(False, False): "", (True, False): "no face in the original", (False, True): "no face in the customized portrait",
            (True, True): "no face in either picture"}


def metric(faces: FaceEmbedder) -> Metric:
    return Metric("id", "ID", "up", Identity(faces))


class SFace:
    """OpenCV's YuNet detector and SFace recogniser (128-d; two pictures of one person lie above cosine 0.363)."""

    name = "YuNet + SFace"

    def __init__(self, folder: Path):
        try:
            import cv2
        except ImportError:
            raise MetricUnavailable("ID: the package opencv-python-headless is not installed; install it with pip.") from None
        self._detector = cv2.FaceDetectorYN.create(str(find(DETECTOR, folder)), "", (320, 320))
        self._recogniser = cv2.FaceRecognizerSF.create(str(find(RECOGNISER, folder)), "")

    def __call__(self, images: Tensor) -> Tensor:
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return torch.from_numpy(np.stack([self._embed(np.ascontiguousarray(picture[..., ::-1])) for picture in pixels]))

    def _embed(self, bgr: np.ndarray) -> np.ndarray:
        self._detector.setInputSize((bgr.shape[1], bgr.shape[0]))
        _, faces = self._detector.detect(bgr)
        if faces is None or not len(faces):
            return np.full(128, np.nan, np.float32)
        largest = max(faces, key=lambda face: face[2] * face[3])  # x, y, width, height, landmarks, score
        return self._recogniser.feature(self._recogniser.alignCrop(bgr, largest))[0]
