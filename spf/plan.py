"""How much memory training would take at its peak, by option, before any weight is loaded.

Weights, gradients and Adam's moments follow from parameter counts. What a step holds besides is measured by walking
the real stages through on fake tensors, which have shapes and lifetimes but no memory.
"""

from __future__ import annotations

import json
import warnings
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from spf.backbones import mmdit, sizes, unet
from spf.backbones.base import Backbone, TextFeatures
from spf.backbones.layouts import DENOISER
from spf.backbones.loading import DTYPES, architecture_of, scheduler_of
from spf.backbones.source import PUBLISHED, is_downloaded, is_hub_id, locate
from spf.clip import Clip
from spf.config import REPOSITORY, MethodConfig, ModelPreset
from spf.data.batches import Examples
from spf.errors import InvalidInput
from spf.training.stages import DualPathStage, FineTuneStage, Stage

MAX_BATCH = 1024
_PHRASES = 6  # of a base text; their number hardly counts
_CONVOLUTIONS = (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)
_ADAM_MOMENTS, _ADAM_8BIT = 2, 0.25  # values kept per trained parameter, and how much 8-bit Adam takes of that


# torch asks a fake tensor of a convolution where its data is, and warns of its own question
warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")


@dataclass(frozen=True)
class Option:
    """One way to train. Precision is that of the step; weights stay in the preset's dtype."""

    stage: int
    trainable: str
    bf16: bool = False
    gradient_checkpointing: bool = False
    tiny_autoencoder: bool = False
    shared: bool = False  # both paths share what is not trained, as they do after a first stage that trained no more than that
    reference_bf16: bool = False  # the reference path's pass alone

    def __str__(self) -> str:
        extras = [name for name, on in (
            ("gradient checkpointing", self.gradient_checkpointing), ("tiny autoencoder", self.tiny_autoencoder),
            ("one backbone", self.shared), ("reference in bf16", self.reference_bf16)) if on]
        return ", ".join([f"stage {self.stage}", f"{self.trainable} trainable", "bf16" if self.bf16 else "fp32", *extras])


def ladder() -> list[Option]:
    """The default of each stage, every option alone, and all of them together."""
    first, second = Option(1, "full"), Option(2, "cross")
    return [first, replace(first, trainable="cross"), replace(first, bf16=True), replace(first, gradient_checkpointing=True),
            replace(first, trainable="cross", bf16=True, gradient_checkpointing=True),
            second, replace(second, trainable="full"), replace(second, bf16=True), replace(second, gradient_checkpointing=True),
            replace(second, tiny_autoencoder=True), replace(second, shared=True), replace(second, reference_bf16=True),
            replace(second, bf16=True, gradient_checkpointing=True, tiny_autoencoder=True, shared=True)]


def plan(preset: ModelPreset, batch: int, resolution: int | None = None) -> dict[str, Any]:
    """Predicted peaks in GB (1e9 bytes) of every option. Raises ModelNotFound or InvalidInput."""
    side = resolution or preset.resolution
    if not 1 <= batch <= MAX_BATCH:
        raise InvalidInput("--batch", f"must lie between 1 and {MAX_BATCH} (got {batch})")
    if not 64 <= side <= 2048 or side % 16:
        raise InvalidInput("--resolution", f"must lie between 64 and 2048 and be a multiple of 16 (got {side})")
    rows = [{"option": str(option), **_peaks(preset, option, batch, side)}
            for option in tqdm(ladder(), desc="predicting memory", unit="option", leave=False, disable=None)]
    return {"model": preset.name, "batch": batch, "resolution": side,
            "parameters": parameter_counts(preset), "options": rows}


def as_text(predicted: dict[str, Any]) -> str:
    counts = ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in predicted["parameters"].items())
    width = max(len(row["option"]) for row in predicted["options"])
    lines = [f"{predicted['model']} at {predicted['resolution']} px, batch {predicted['batch']}: peak memory in GB",
             f"parameters: {counts}", f"{'':{width}}{'peak':>8}{'8-bit Adam':>12}{'offload':>9}{'both':>8}"]
    lines += [f"{row['option']:{width}}{row['peak_gb']:8.2f}{row['adam_8bit_gb']:12.2f}{row['offload_gb']:9.2f}"
              f"{row['both_gb']:8.2f}" for row in predicted["options"]]
    return "\n".join([*lines, "offload: text encoders, and what a stage does not use, wait in main memory",
                      "one backbone: both paths share what is not trained, as after a first stage that trained no more either",
                      "tensors alone: libraries take about 0.6 GB, and an allocator that keeps holes up to 1.5 times a step"])


def _peaks(preset: ModelPreset, option: Option, batch: int, side: int) -> dict[str, float]:
    parts = predict(preset, option, batch, side)
    total, saved = sum(parts[name] for name in ("weights", "adam", "step")), parts["adam"] * (1 - _ADAM_8BIT)
    return {f"{name}_gb": round(value / 1e9, 3) for name, value in {
        "peak": total, "adam_8bit": total - saved, "offload": total - parts["idle"], "both": total - saved - parts["idle"],
        **parts}.items()}


def predict(preset: ModelPreset, option: Option, batch: int, side: int) -> dict[str, float]:
    """Bytes: all weights in memory, Adam's moments, the step's own peak, and those weights that 'offload' puts elsewhere.

    A first stage that trains only cross-attention shares the rest of the denoiser with the reference; a second one if `shared`.
    """
    counts, width = parameter_counts(preset), DTYPES[preset.dtype].itemsize
    denoiser = DENOISER[preset.family]
    encoders = sum(count for name, count in counts.items() if name.startswith("text_encoder"))
    with fake_step(preset, option, batch, side) as (run, trained):
        step = run()
    shares = option.shared or (option.stage == 1 and option.trainable == "cross")
    response = trained if shares else counts[denoiser]
    unused = width * encoders
    if option.stage == 1:
        unused += width * (counts["vae"] + (0 if shares else counts[denoiser])) + 4 * counts["clip"]
    weights = width * (counts[denoiser] + response + encoders + counts["vae"]) + 4 * counts["clip"]
    return {"weights": weights, "adam": _ADAM_MOMENTS * width * trained, "step": step, "idle": unused}


def parameter_counts(preset: ModelPreset) -> dict[str, int]:
    """By component, with the CLIP of the losses."""
    clip = sum(parameter.numel() for parameter in empty_clip(preset).model.parameters())
    return {**sizes.parameter_counts(folder_of(preset)), "clip": clip}


def folder_of(preset: ModelPreset) -> Path:
    """Where the model's component configurations are: its own folder, or those that its single file is read by."""
    if is_hub_id(preset.pretrained_model_name_or_path) and not is_downloaded(preset):
        return PUBLISHED[preset.family]
    path = locate(preset)
    return path if path.is_dir() else architecture_of(preset)


def empty_clip(preset: ModelPreset) -> Clip:
    """The CLIP of the losses on the meta device."""
    with torch.device("meta"):
        model = open_clip.CLIP(**_clip_config(preset))
    return Clip(model, None, (0.5,) * 3, (0.5,) * 3)


def _clip_config(preset: ModelPreset) -> dict[str, Any]:
    name, _, tag = preset.clip.partition(":")
    if tag:
        return {key: value for key, value in open_clip.get_model_config(name).items() if key != "custom_text"}
    return json.loads((REPOSITORY / preset.clip / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]


class LiveBytes(TorchDispatchMode):
    """Bytes of tensors that come into being inside the block and are still alive; `peak` is the most there ever were.

    A convolution works on copies of its input, weight and output in a layout of its own (oneDNN's blocked one): while it
    runs they count too.
    """

    def __init__(self, known: list[Tensor]):
        super().__init__()
        self.live = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}  # counted as weights

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        if func.overloadpacket in _CONVOLUTIONS:
            self.peak = max(self.peak, self.live + _scratch(func.overloadpacket, args, output))
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def _scratch(convolution: Any, args: tuple[Any, ...], output: Any) -> int:
    """Bytes of the copies that a convolution, or its backward, which begins with the output's gradient, works on."""
    tensors = (args[0], args[1], output) if convolution is torch.ops.aten.convolution else args[:3]
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


@contextmanager
def fake_step(preset: ModelPreset, option: Option, batch: int, side: int):
    """(run, trained): `run()` does forward and backward of a stage and returns its peak in bytes; parameters trained."""
    mode, networks, clip = FakeTensorMode(allow_non_fake_inputs=True), empty_networks(preset, option), empty_clip(preset)
    for network in (*networks.values(), clip.model):
        become_fake(network, mode)
    reference = backbone_of(preset, networks)
    response = reference.fork({name for name, _ in reference.trainable_parameters(option.trainable)} if option.shared else None)
    with mode:
        for _, parameter in response.trainable_parameters(option.trainable):
            parameter.requires_grad_(True)
        if option.gradient_checkpointing:
            response.enable_gradient_checkpointing()
        batch_of = examples(response, clip, batch, side)
        empty = batch_of.base[[0]]
        stage: Stage = (FineTuneStage(response, empty) if option.stage == 1 else
                        DualPathStage(reference, response, clip, MethodConfig(), empty, reference_bf16=option.reference_bf16))
        modules = (reference.denoiser, response.denoiser, reference.vae, clip.model)
        weights = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        trained = sum(parameter.numel() for parameter in response.denoiser.parameters() if parameter.requires_grad)

        def run() -> int:
            with LiveBytes(weights) as counted, torch.autocast("cpu", torch.bfloat16, enabled=option.bf16):
                losses, _ = stage.training_forward(batch_of, torch.Generator())
                sum(losses.values()).backward()
            return counted.peak

        yield run, trained


def become_fake(module: nn.Module, mode: FakeTensorMode) -> None:
    """Its tensors, on the meta device, claim from now on to lie in main memory, so that the same kernels are chosen as there."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = FakeTensor(mode, tensor.detach().to("meta"), torch.device("cpu"))
                    tensors[name] = nn.Parameter(fake, requires_grad=False) if isinstance(tensor, nn.Parameter) else fake


def empty_networks(preset: ModelPreset, option: Option) -> dict[str, nn.Module]:
    """Denoiser and autoencoder on the meta device, in the preset's dtype."""
    folder, part, dtype = folder_of(preset), DENOISER[preset.family], DTYPES[preset.dtype]
    denoiser = sizes.unshared(folder / part)
    vae = sizes.tiny_autoencoder(denoiser.config.in_channels) if option.tiny_autoencoder else sizes.unshared(folder / "vae")
    return {name: nn.Module.to(network, dtype) for name, network in (("denoiser", denoiser), ("vae", vae))}  # theirs warns


def backbone_of(preset: ModelPreset, networks: dict[str, nn.Module]) -> Backbone:
    """A backbone that can be trained, but reads no text."""
    reader, nothing = SimpleNamespace(model_max_length=77), nn.Identity()  # texts are encoded before training
    parts: dict[str, Any] = {**networks, "scheduler": scheduler_of(folder_of(preset), preset.family)}
    if preset.family == "unet":
        return unet.UNetBackbone(tokenizer=reader, text_encoder=nothing, **parts)
    return mmdit.MMDiTBackbone(
        tokenizer=reader, text_encoder=nothing, tokenizer_2=reader, text_encoder_2=nothing, tokenizer_3=None,
        text_encoder_3=None, **parts)


def examples(backbone: Backbone, clip: Clip, batch: int, side: int) -> Examples:
    """Examples of the right shapes and no content."""
    embeddings = torch.zeros(batch, clip.model.text_projection.shape[-1])
    channels, h, w = backbone.latent_shape(side)
    text = text_features(backbone, batch)
    return Examples(torch.zeros(batch, channels, h, w), text, text, torch.zeros(batch, _PHRASES), embeddings, embeddings,
                    tuple([None] * batch))


def text_features(backbone: Backbone, batch: int) -> TextFeatures:
    """Prompts of the right shapes and no content."""
    config = backbone.denoiser.config
    is_unet = isinstance(backbone, unet.UNetBackbone)
    tokens = 77 if is_unet else 77 + mmdit.T5_WINDOW
    encoders = 1 if is_unet else 2
    width = config.cross_attention_dim if is_unet else config.joint_attention_dim
    pooled = None if is_unet else torch.zeros(batch, config.pooled_projection_dim)
    ones = torch.ones(batch, tokens)
    return TextFeatures(torch.zeros(batch, tokens, width), ones, ones, torch.ones(batch, tokens, encoders, _PHRASES),
                        torch.ones(batch, tokens, encoders, 1), tuple([None] * batch), pooled)
