"""Trains the recogniser on rendered pictures and their truth: `python -m spf pretrain recogniser`."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from spf.backbones.base import Backbone
from spf.backbones.checkpoints import load_backbone
from spf.config import REPOSITORY, ComponentConfig, ModelPreset, RecogniserPretrainConfig, model_preset
from spf.pocket.autoencoder import to_images
from spf.pocket.component import Component, multiplies_bf16
from spf.pocket.parts import PartTraining
from spf.pocket.pictures import mask_set
from spf.pocket.pretrain import Pretraining
from spf.pocket.recogniser import CONFIG, NO_TARGET, READABLE, SIZE, WEIGHTS, RecogniserNetwork, config_dict
from spf.pocket.renderer import PARTS
from spf.pocket.world import Portrait

UNKNOWN = -1  # the label of an attribute that cannot be seen
# What generated pictures show and rendered ones do not. Strengths in training reach beyond those of the test.
MAX_BLUR, MAX_NOISE, MAX_SHIFT = 1.5, 0.2, 0.1  # pixels of 128; standard deviation and offset, in units of [-1, 1]
ATTRIBUTES_WEIGHT = 4.0  # against the masks: most attributes are soon read without fault and weigh nothing in the mean
_TAPS = 9  # of the blur


class RecogniserTraining(PartTraining):
    """One network, on the pictures of another preset; the committed autoencoder of that preset softens some of them."""

    PARTS = ("recogniser",)

    def __init__(self, config: RecogniserPretrainConfig, base: Pretraining, folder: Path, device: torch.device, minutes: float):
        super().__init__(folder, config.seed, config.ema_decay, device, minutes)
        self.config, self.base = config, base

    def train_recogniser(self) -> bool:
        config = self.config.recogniser
        return self.fit(component(self._network(), self._examples(), config, self.device))

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        state = self.trained(self._network(), "recogniser").state_dict()
        save_file({name: value.half().contiguous() if value.is_floating_point() else value for name, value in state.items()},
                  folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(config_dict(self.config.recogniser.architecture), indent=2))

    def read(self, folder: Path) -> dict[str, dict[str, Tensor]]:
        return {"recogniser": load_file(folder / WEIGHTS)}

    def record(self) -> dict:
        return super().record() | {"masks": self.config.masks, "softened": self.config.softened}

    def _network(self) -> RecogniserNetwork:
        torch.manual_seed(self.seed)
        return RecogniserNetwork(**self.config.recogniser.architecture)

    def _examples(self) -> Examples:
        pictures, world = self.base.pictures(), self.base.config
        model = model_preset(self.config.base)
        return Examples(
            pixels=pictures.pixels, labels=label_rows(pictures.portraits),
            softened=softened_set(model, pictures.pixels[:self.config.softened], self.folder, self.device),
            masks=mask_set(self.base.folder / "pictures", world.seed, self.config.masks, world.target_share, SIZE))


@dataclass(frozen=True)
class Examples:
    """Pictures and their truth. The first of them have masks; a softened picture went through an autoencoder."""

    pixels: np.ndarray  # Shape: (N, 128, 128, 3) uint8
    softened: np.ndarray  # Shape: (S, 128, 128, 3) uint8, the first S of `pixels`
    masks: np.ndarray  # Shape: (M, 128, 128) uint8, bit i for PARTS[i], of the first M of `pixels`
    labels: Tensor  # Shape: (N, attributes) int64, UNKNOWN where a target hides the attribute

    def images(self, rows: Tensor, soft: Tensor, device: torch.device) -> Tensor:
        """(B, 3, 128, 128) in [-1, 1]; `soft` (B,) asks for the softened picture where there is one."""
        chosen = [self.softened[row] if wants and row < len(self.softened) else self.pixels[row]
                  for row, wants in zip(rows.tolist(), soft.tolist(), strict=True)]
        return to_images(np.stack(chosen), device)


def label_rows(portraits: list[Portrait]) -> Tensor:
    """Index of each readable attribute's value, (N, attributes) int64; UNKNOWN where a target hides it."""
    rows = []
    for portrait in portraits:
        values = {name: NO_TARGET if name == "target" and portrait.target is None else portrait.value(name) for name in READABLE}
        rows.append([UNKNOWN if name in portrait.hidden else READABLE[name].index(value) for name, value in values.items()])
    return torch.tensor(rows)


def unpack_masks(bits: np.ndarray) -> Tensor:
    """(B, H, W) uint8 with a bit per part -> (B, P, H, W) float of 0 and 1."""
    planes = (bits[:, None] >> np.arange(len(PARTS), dtype=np.uint8).reshape(1, -1, 1, 1)) & 1
    return torch.from_numpy(planes).float()


def softened_set(preset: ModelPreset, pixels: np.ndarray, folder: Path, device: torch.device, batch: int = 32) -> np.ndarray:
    """`pixels` after a model's encoding and decoding, kept in `folder`: the softness that every generated picture has."""
    digest = hashlib.sha256(np.ascontiguousarray(pixels[:4]).tobytes() + str(len(pixels)).encode())
    for weights in sorted((REPOSITORY / preset.pretrained_model_name_or_path / "vae").glob("*.safetensors")):
        digest.update(weights.read_bytes())
    path = folder / f"softened-{digest.hexdigest()[:16]}.npy"
    if not path.exists():
        backbone, staged = load_backbone(preset, device), path.with_suffix(".partial")
        written = np.lib.format.open_memmap(staged, "w+", np.uint8, pixels.shape)
        for start in tqdm(range(0, len(pixels), batch), desc="softening", unit="batch"):
            written[start:start + batch] = _through(backbone, to_images(pixels[start:start + batch], device))
        written.flush()
        os.replace(staged, path)
    return np.load(path, mmap_mode="r")


@torch.inference_mode()
def _through(backbone: Backbone, images: Tensor) -> np.ndarray:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=multiplies_bf16(images.device)):
        decoded = backbone.decode(backbone.encode_images(images)).float().clamp(-1, 1)
    return ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def component(network: RecogniserNetwork, examples: Examples, config: ComponentConfig, device: torch.device) -> Component:
    """Half of each batch has masks, the other half shows every target as often; pictures are softened and disturbed."""
    network.to(memory_format=torch.channels_last)
    targets = examples.labels[:, list(READABLE).index("target")]
    rarity = (1.0 / targets.bincount()[targets]).to(device)  # freckles are missed when they are as rare as in the pictures

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        half = config.batch_size // 2
        masked = torch.randint(len(examples.masks), (half,), generator=generator, device=device)
        balanced = torch.multinomial(rarity, config.batch_size - half, replacement=True, generator=generator)
        rows = torch.cat([masked, balanced]).cpu()
        soft = torch.rand(len(rows), generator=generator, device=device) < 0.5
        with torch.autocast(device.type, enabled=False):
            images = disturbed(examples.images(rows, soft, device), generator)
        mirrored = torch.rand((), generator=generator, device=device) < 0.5  # the whole batch, and its masks
        images = images.flip(3) if mirrored else images
        grids = network.pyramid(images.contiguous(memory_format=torch.channels_last))
        attributes = attribute_loss(network.logits(network.embedding(grids[-1])).float(), examples.labels[rows].to(device))
        truth = unpack_masks(examples.masks[rows[:half].numpy()]).to(device)
        truth = truth.flip(3) if mirrored else truth
        masks = mask_loss(network.masks([grid[:half] for grid in grids]).float(), truth)
        return ATTRIBUTES_WEIGHT * attributes + masks, {"attributes": attributes.detach(), "masks": masks.detach()}

    return Component("recogniser", network, loss, config)


def attribute_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over attributes of the cross-entropy over the pictures in which the attribute can be seen."""
    each = [
        F.cross_entropy(part, label, ignore_index=UNKNOWN, reduction="sum") / (label != UNKNOWN).sum().clamp(min=1)
        for part, label in zip(logits.split([len(options) for options in READABLE.values()], dim=1), labels.T, strict=True)]
    return torch.stack(each).mean()


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy per pixel plus 1 - soft IoU per part: a thin part weighs as much as the background."""
    probability = logits.sigmoid()
    both = (probability * truth).sum(dim=(0, 2, 3))
    either = (probability + truth - probability * truth).sum(dim=(0, 2, 3))
    return F.binary_cross_entropy_with_logits(logits, truth) + (1 - (both + 1) / (either + 1)).mean()


def disturbed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, noise and colour shift, each of a strength drawn per picture; a third of the pictures is spared each of them."""
    def strength(high: float, *shape: int) -> Tensor:
        drawn = torch.rand((len(images), *shape), generator=generator, device=images.device)
        return high * (1.5 * drawn - 0.5).clamp(min=0)

    def signed(high: float) -> Tensor:
        return (2 * torch.rand((len(images), 3, 1, 1), generator=generator, device=images.device) - 1) * high

    shifted = images * (1 + signed(MAX_SHIFT)) + signed(MAX_SHIFT)
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return (blurred(shifted, strength(MAX_BLUR)) + strength(MAX_NOISE, 1, 1, 1) * noise).clamp(-1, 1)


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian of standard deviation `sigma` (B,) pixels over each picture."""
    offsets = torch.arange(_TAPS, device=images.device) - _TAPS // 2
    kernels = (-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]).square()).softmax(dim=1).repeat_interleave(3, dim=0)
    planes = F.pad(images.flatten(0, 1)[None], [_TAPS // 2] * 4, mode="replicate")
    planes = F.conv2d(planes, kernels[:, None, :, None], groups=len(kernels))
    return F.conv2d(planes, kernels[:, None, None], groups=len(kernels)).view_as(images)
