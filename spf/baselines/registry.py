"""Every method of Table 1 behind one signature, and the variants and ablations of SPF-Portrait, as evaluation lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spf.backbones.base import Backbone
from spf.baselines import fine_tuning, tokencompose
from spf.baselines.magnet import Magnet
from spf.baselines.storm import Storm
from spf.clip import Clip
from spf.config import GenerationRequest, ModelPreset, TrainConfig, model_preset
from spf.errors import InvalidInput
from spf.generation.guide import Guide
from spf.training.run import Stages, spf_stages

MakeStages = Callable[[TrainConfig, Backbone, Backbone, Clip], Stages]


@dataclass(frozen=True)
class Method:
    """A method trains (`make_stages`) or acts while sampling (`make_guide`), on the families it is defined for.

    One that only acts needs weights that know the target: those that 'standard' writes (stage 1).
    """

    title: str
    make_stages: MakeStages | None = None
    make_guide: Callable[[GenerationRequest], Guide] | None = None
    families: tuple[str, ...] = ("unet", "mmdit")


METHODS: dict[str, Method] = {
    "standard": Method("Standard fine-tuning", fine_tuning.stages),
    "lora": Method("LoRA", fine_tuning.stages),
    "adalora": Method("AdaLoRA", fine_tuning.stages),
    "tokencompose": Method("TokenCompose", tokencompose.stages, families=("unet",)),
    "magnet": Method("Magnet", make_guide=lambda request: Magnet(request.guide)),
    "storm": Method("STORM", make_guide=lambda request: Storm(request.guide, request.num_inference_steps), families=("unet",)),
    "spf": Method("SPF-Portrait", spf_stages),
}

# Dotted settings of a training run on top of its preset.
VARIANTS: dict[str, dict[str, Any]] = {  # Appendix E, Table 5: what stage 2 trains
    "full-weights": {"stage2.trainable": "full"},
    "lora-cross-attention": {"stage2.trainable": "lora"},
    "adapter-cross-attention": {"stage2.trainable": "adapter"},
    "cross-attention": {"stage2.trainable": "cross"},
}
ABLATIONS: dict[str, dict[str, Any]] = {  # Tables 1 and 4, D26
    "only-stage-1": {"stage": "1"},
    "only-stage-2": {"stage": "2"},
    "without-text-loss": {"method.use_text_loss": False},
    "without-fine-loss": {"method.use_fine_loss": False},
    "without-enhanced-loss": {"method.use_enhanced_loss": False},
    "without-sfcm": {"method.use_sfcm": False},
    "plain-clip-loss": {"method.clip_supervision": "plain"},
}


def training_stages(config: TrainConfig, reference: Backbone, response: Backbone, clip: Clip) -> Stages:
    """The stages of the recipe that a run asks for; what Run calls. Raises InvalidInput where the family has none."""
    return _method(config.recipe, model_preset(config.model)).make_stages(config, reference, response, clip)


def make_guide(request: GenerationRequest, preset: ModelPreset) -> Guide:
    """The guide that a request asks for. Raises InvalidInput where the family has none."""
    return _method(request.guide.name, preset).make_guide(request)


GUIDES = {name: make_guide for name, method in METHODS.items() if method.make_guide}


def _method(name: str, preset: ModelPreset) -> Method:
    method = METHODS[name]
    if preset.family not in method.families:
        raise InvalidInput(
            "method", f"'{name}' reads the cross-attention of a U-Net, and '{preset.name}' is of the family '{preset.family}'; "
            "choose another method or model")
    return method
