"""HPSv2 and MPS: how well people would like the customized portrait for its whole prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spf.backbones.image_reward import VIT_L, ImageReward, ImageRewardNetwork, renamed
from spf.backbones.mps import VIT_H, Mps, MpsNetwork
from spf.clip import Clip
from spf.metrics.base import Metric, MetricUnavailable, Pairs, Rows
from spf.metrics.clip_score import TextSimilarity, published_clip
from spf.metrics.weights import Published, fill, find, load_tensors

HPS = Published("HPSv2", "HPS_v2.1_compressed.pt", "https://huggingface.co/xswu/HPSv2 (Apache-2.0)")
MPS = Published("MPS", "MPS_overall.pth", (
    "https://pai-aigc-photog.oss-cn-hangzhou.aliyuncs.com/easyanimate/Third_Party/MPS_overall.pth, the plain weights of "
    "https://github.com/Kwai-Kolors/MPS (MIT)"))


IMAGE_REWARD = Published("ImageReward", "ImageReward.pt", "https://huggingface.co/THUDM/ImageReward (Apache-2.0)")
BERT_WORDS = Published("ImageReward", "bert-base-uncased/vocab.txt",
                       "https://huggingface.co/google-bert/bert-base-uncased (Apache-2.0)")


class PreferenceModel(Protocol):
    name: str

    def score(self, images: Tensor, prompts: tuple[str, ...]) -> Tensor:
        """(B, 3, H, W) RGB in [-1, 1] and B prompts -> (B,), larger is better liked."""


def hps(clip: Clip, name: str) -> Metric:
    """HPSv2 is the cosine of picture and whole prompt, in a CLIP that was trained on people's choices; no logit scale."""
    return Metric("hps", "HPSv2", "up", TextSimilarity(clip, name, lambda pairs: pairs.prompts))


def hps_clip(folder: Path, device: torch.device | str = "cpu") -> Clip:
    """ViT-H/14 with the weights of HPS v2.1; scores of v2.0 are not comparable with its."""
    return published_clip(HPS, "ViT-H-14", folder, device)


def mps_model(folder: Path, device: torch.device | str = "cpu", architecture: dict = VIT_H) -> Mps:
    """The released "overall" head. Raises MetricUnavailable naming the file that is missing."""
    path = find(MPS, folder)
    network = MpsNetwork(architecture)
    known = set(network.state_dict())
    # position_ids were stored by older versions of transformers, and are no weights
    tensors = {name: value for name, value in load_tensors(path).items() if name in known or not name.endswith("position_ids")}
    return Mps(fill(network, tensors, path).to(device))


def image_reward_model(folder: Path, device: torch.device | str = "cpu", architecture: dict = VIT_L) -> ImageReward:
    """The released model. Raises MetricUnavailable naming the file that is missing."""
    path, words = find(IMAGE_REWARD, folder), find(BERT_WORDS, folder)
    try:
        return ImageReward(fill(ImageRewardNetwork(architecture), renamed(load_tensors(path)), path).to(device), words)
    except (OSError, ValueError) as error:
        raise MetricUnavailable(f"{words} is not BERT's list of words ({error}); get it from {BERT_WORDS.source}.") from None


class PreferenceScore:
    """Rows (B, 2): the customized portrait's score, and the original's for the same prompt."""

    def __init__(self, model: PreferenceModel):
        self.model, self.name = model, model.name

    @torch.no_grad()
    def __call__(self, pairs: Pairs) -> Rows:
        scores = [self.model.score(images, pairs.prompts).double().cpu() for images in (pairs.customized, pairs.original)]
        return Rows.of(torch.stack(scores, dim=1).numpy())


def mps(model: PreferenceModel) -> list[Metric]:
    """The raw score, and how often the customized portrait would be chosen over its original."""
    extractor = PreferenceScore(model)
    return [Metric("mps", "MPS", "up", extractor), Metric("mps_win", "MPS win rate", "up", extractor, win_rate, scale=100)]


def win_rate(rows: np.ndarray) -> float:
    """Mean over pairs of softmax(customized, original) at `customized`: the model's chance that it is preferred."""
    return float((1 / (1 + np.exp((rows[:, 1] - rows[:, 0]).clip(-500, 500)))).mean())


class ClipPreference:
    """The arithmetic of MPS, logit scale times cosine, with a CLIP that knows prompts but no people's choices."""

    def __init__(self, clip: Clip, name: str):
        self.clip, self.name = clip, name

    def score(self, images: Tensor, prompts: tuple[str, ...]) -> Tensor:
        cosine = (self.clip.embed_images(images) * self.clip.embed_texts(list(prompts))).sum(dim=1)
        return self.clip.model.logit_scale.exp() * cosine
