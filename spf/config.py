"""One schema for YAML files, the command line, the page and the API.

Unknown keys and impossible values are refused with the remedy. Where the paper leaves something open, the option is
here, its default is the reading this project chose, and its description names the decision (D1-D26 of docs/method.md).
"""

from __future__ import annotations

import copy
import os
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from spf.errors import InvalidInput, ModelNotFound

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = REPOSITORY / "configs"


def home() -> Path:
    """Where this user's data lives: SPF_HOME, or `workspace/` in the repository. Not created by asking."""
    return Path(os.environ.get("SPF_HOME") or REPOSITORY / "workspace").resolve()


MAX_TEXT = 2000  # characters; far beyond any text encoder's window, far below what would stall the page
MAX_TARGETS = 16
MAX_MIX, MAX_MIX_WEIGHT = 8, 2.0  # customizations in one portrait, and how far each may be overdone
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]


class Schema(BaseModel):
    """Frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class MethodConfig(Schema):
    """The options of stage 2: the paper's hyperparameters, its ablations, and the readings of what it leaves open."""

    lambda_text: float = Field(0.2, ge=0, le=100, description="lambda_1 of Eq. 12.")
    lambda_fine: float = Field(0.1, ge=0, le=100, description="lambda_2 of Eq. 12.")
    lambda_enhanced: float = Field(0.6, ge=0, le=100, description="lambda_3 of Eq. 12.")
    use_text_loss: bool = Field(True, description="D26: off gives the ablation without L_M-text.")
    use_fine_loss: bool = Field(True, description="D26: off gives the ablation without L_M-fine.")
    use_enhanced_loss: bool = Field(True, description="D26: off gives the ablation without L_enhanced.")
    use_sfcm: bool = Field(True, description="D26: off aligns everywhere (w = 1).")
    clip_supervision: Literal["bias", "plain"] = Field("bias", description="D26: Eq. 11, or the vanilla loss of Eq. 9.")
    include_pad: bool = Field(False, description="D4: also align the slots that are padding in both prompts.")
    soft_map_norm: Literal["l1", "l2"] = Field("l1", description="D8: how the channels of |difference| are joined.")
    phrase_normalization: Literal["minmax", "none"] = Field("minmax", description="D9.")
    map_layers: Literal["all", "middle"] = Field("all", description="D9: 'middle' leaves out finest and coarsest grid.")
    gamma: Literal["clip", "contextual"] = Field("clip", description="D10: where phrase and target are compared.")
    phrase_reduce: Literal["sum", "max", "mean"] = Field("sum", description="D11.")
    align_reduction: Literal["mean_sum", "mean_mean", "l2norm"] = Field("mean_sum", description="D13.")
    enhanced_max_amplification: float = Field(
        1.0, gt=0, le=100, description="D15: L_enhanced acts where sqrt((1-abar)/abar) is at most this.")
    enhanced_weight: Literal["gate", "signal"] = Field("gate", description="D15: 'signal' also weighs by abar_t.")


class ModelPreset(Schema):
    """Where a model's files are and how it is used by default (`configs/models/<name>.yaml`)."""

    name: Name
    title: str
    family: Literal["unet", "mmdit"]
    pretrained_model_name_or_path: str = Field(
        description="Diffusers folder or single .safetensors file (relative to the repository), or hub id.")
    variant: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,32}$")] | None = Field(
        None, description="Which version of a diffusers folder's files to read, for example fp16.")
    dtype: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="What the weights are held in.")
    vae: str | None = Field(None, description="Another autoencoder: diffusers folder or single file; else the model's own.")
    tiny_vae: str | None = Field(
        None, description="Tiny autoencoder of the same latents, for training: folder or hub id; its family's TAESD if left out.")
    architecture: str | None = Field(
        None, description="Folder of component configurations for a single file; the published ones of its family if left out.")
    clip: str = Field(description="open_clip folder (relative to the repository), or 'model:pretrained' of open_clip.")
    resolution: int = Field(ge=64, le=2048, multiple_of=8)
    num_inference_steps: int = Field(20, ge=1, le=200)
    guidance_scale: float = Field(5.0, ge=1.0, le=30.0)
    base_text: str = Field(description="Shown when the page opens.")
    method: MethodConfig = Field(MethodConfig(), description="Readings that suit this model's scale and CLIP.")


Trainable = Literal["full", "cross", "lora", "adalora", "adapter"]
Crop = Literal["center", "portrait"]
Recipe = Literal["spf", "standard", "lora", "adalora", "tokencompose"]
# What a recipe is by definition; its tuned values are in the `recipes` of a training preset.
RECIPES: dict[str, dict[str, Any]] = {
    "spf": {},
    "standard": {"stage1": {"trainable": "full"}},
    "lora": {"stage1": {"trainable": "lora", "adapter": {"layers": "attention"}}},
    "adalora": {"stage1": {"trainable": "adalora", "adapter": {"layers": "attention"}}},
    "tokencompose": {"stage1": {"trainable": "full"}},
}


class AdapterConfig(Schema):
    """What 'lora' and 'adalora' add to the attention layers."""

    rank: int = Field(16, ge=1, le=512, description="Of every update; 'adalora' begins with half as much again.")
    layers: Literal["cross", "attention"] = Field(
        "cross", description="Cross-attention (Appendix E), or self-attention as well (the baselines of Table 1).")
    orthogonality: float = Field(0.1, ge=0, le=10, description="Weight of AdaLoRA's orthogonality term.")


class TokenComposeConfig(Schema):
    """The weights of TokenCompose's two grounding terms beside the diffusion loss."""

    token_weight: float = Field(1e-3, ge=0, le=100)
    pixel_weight: float = Field(5e-5, ge=0, le=100)


class StageConfig(Schema):
    """One stage's optimisation. `max_train_steps` of 0 means `num_train_epochs` over the pictures decides."""

    learning_rate: float = Field(gt=0, le=1)
    train_batch_size: int = Field(ge=1, le=1024, description="Per device (D23).")
    num_train_epochs: int = Field(ge=1, le=10_000)
    max_train_steps: int = Field(0, ge=0, le=1_000_000)
    lr_scheduler: Literal["constant", "cosine"] = Field("constant", description=(
        "After the warm-up the learning rate stays, or falls to zero along half a cosine: the last steps then settle."))
    lr_warmup_steps: int = Field(0, ge=0)
    trainable: Trainable = Field(description="D2, Appendix E: which parameters of the denoiser are updated, and how.")
    adapter: AdapterConfig = AdapterConfig()
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_weight_decay: float = Field(0.01, ge=0, le=10)
    use_8bit_adam: bool = Field(False, description="AdamW's moments take a quarter of the memory; needs bitsandbytes.")
    max_grad_norm: float = Field(1.0, gt=0)
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=1024, description="Batches per step and device: same gradient as a larger batch, less memory.")


class TrainConfig(Schema):
    """Everything a training run depends on besides the pictures."""

    model: Name = "pocket"
    data: str = Field(min_length=1, description="Folder of pictures, in any layout of docs/data.md.")
    target_texts: tuple[Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)], ...] = Field(
        (), max_length=MAX_TARGETS, description="Phrases to cut out of captions, where the folder holds one caption per picture.")
    base_text: str = Field("", max_length=MAX_TEXT, description="For pictures whose caption says nothing but the target.")
    crop: Crop = Field("center", description="Which square of a picture is used; 'portrait' leaves more below than above.")
    aspect_ratio_buckets: bool = Field(False, description=(
        "Pictures keep about their shape: each is cut to the nearest of several with equal area, and a batch has one shape."))
    cache_gb: float = Field(8.0, ge=0, le=10_000, description="Disk that encoded pictures and texts may take; 0 keeps none.")
    name: Name = Field(description="Name of the customization that the run writes.")
    stage: Literal["both", "1", "2"] = "both"
    initial_customization: str | None = Field(
        None, max_length=600, description=("What the run starts from, with either stage: a customization, or several with "
                                           "weights ('winter-hat:0.7+neon:0.5'); the original model stays the reference."))
    stage1: StageConfig
    stage2: StageConfig
    method: MethodConfig = MethodConfig()
    recipe: Recipe = Field("spf", description="SPF-Portrait, or one of the methods it is compared with.")
    tokencompose: TokenComposeConfig = TokenComposeConfig()
    caption_dropout: float = Field(0.0, ge=0, le=1, description="D24: share of samples with the empty prompt.")
    base_only_prob: float = Field(0.0, ge=0, le=1, description="D25: share of stage-2 samples without target text.")
    snr_gamma: float = Field(0.0, ge=0, le=1000, description=(
        "L_diff counts an error of x_0 by the smaller of signal-to-noise ratio and this; 0 counts an error of the prediction "
        "alike at every timestep, as Eq. 1 does."))
    seed: int = Field(0, ge=0, lt=2**63)
    sample_every: int = Field(50, ge=0, description="Steps between preview pictures; 0 draws one only when asked.")
    sample_seeds: int = Field(1, ge=1, le=8, description="Previews are drawn of so many fixed seeds, side by side.")
    log_every: int = Field(1, ge=1, description="Steps between lines of metrics.jsonl.")
    checkpoint_every: int = Field(100, ge=0, description="Steps between checkpoints; 0 writes one only when asked.")
    checkpoints_kept: int = Field(2, ge=1, le=100, description="Older checkpoints are deleted.")
    validation_split: float = Field(
        0.125, ge=0, le=0.5, description="Share of the pictures held out for the validation loss; none of fewer than 8.")
    validate_every: int = Field(50, ge=1, description="Steps between validations.")
    early_stop_patience: int = Field(0, ge=0, description=(
        "A stage that aligns stops after so many validations in a row without better preservation, and leaves the weights "
        "of the best one; 0 never stops early."))
    divergence_factor: float = Field(100.0, ge=0, description=(
        "Training stops when the loss stays above its lowest running mean by this factor; 0 lets it go on."))
    mixed_precision: Literal["no", "bf16"] = "no"
    reference_precision: Literal["no", "bf16"] = Field("no", description="Of the frozen original's pass alone, in stage 2.")
    tiny_decoder: bool = Field(False, description=(
        "L_enhanced decodes by a tiny autoencoder if this computer has it, else by the full decoder, checkpointed."))
    gradient_checkpointing: bool = Field(False, description="Less memory, about a third more time per step.")
    offload: bool = Field(False, description="What a stage does not use waits in main memory; previews take longer.")
    report_to: Literal["none", "tensorboard"] = Field("none", description="metrics.jsonl is written in any case.")

    @field_validator("mixed_precision", "reference_precision", mode="before")
    @classmethod
    def _unquoted(cls, value: object) -> object:
        return "no" if value is False else value  # what YAML reads from a no without quotes

    @field_validator("initial_customization")
    @classmethod
    def _initial_customization(cls, value: str | None) -> str | None:
        return None if value is None else mix_text(mix_weights(value))

    @model_validator(mode="after")
    def _recipe_fits(self) -> TrainConfig:
        if self.recipe != "spf" and self.stage == "2":
            raise ValueError(f"stage: '2' is a part of the recipe 'spf' only; leave it out for '{self.recipe}'")
        wanted = RECIPES[self.recipe].get("stage1", {}).get("trainable", self.stage1.trainable)
        if self.stage1.trainable != wanted:
            raise ValueError(f"stage1.trainable: must be '{wanted}' for the recipe '{self.recipe}'")
        if self.recipe == "tokencompose" and self.aspect_ratio_buckets:
            raise ValueError("aspect_ratio_buckets: 'tokencompose' reads its masks as squares; leave it off")
        return self

    def trained_stages(self) -> tuple[StageConfig, ...]:
        """The stages that train something, in order: only 'spf' has a second one."""
        first = (self.stage1,) if self.stage != "2" else ()
        return first + ((self.stage2,) if self.recipe == "spf" and self.stage != "1" else ())


class MagnetConfig(Schema):
    """Magnet edits the prompt's embeddings before sampling."""

    name: Literal["magnet"] = "magnet"
    strength: float = Field(1.0, ge=0, le=10, description="Times the published edit; 0 changes nothing.")
    threshold: float = Field(0.6, ge=-1, le=2, description="lambda of alpha = exp(lambda - omega).")
    neighbours: int = Field(5, ge=1, le=100, description="Nouns that the effect of an attribute is measured on.")


class StormConfig(Schema):
    """STORM moves the latents of the first steps until the attention of two words overlaps less."""

    name: Literal["storm"] = "storm"
    step_size: float = Field(20.0, ge=0, le=1000, description="For latents as large as Stable Diffusion's; 0 changes nothing.")
    guided_share: float = Field(0.5, ge=0, le=1, description="Share of the denoising steps that are guided.")
    binding_from: float = Field(0.14, ge=0, le=1, description="From which share on adjectives are bound to their nouns.")
    refinements: int = Field(30, ge=0, le=200, description="Most repetitions of a step that leaves two words on the wrong side.")


class HoldConfig(Schema):
    """Places outside the SFCM follow the original while the customized portrait is drawn (spf/method/hold.py)."""

    gain: float = Field(2.0, ge=0, le=20, description=(
        "The customized path is free where gain x number of target phrases x SFCM reaches 1."))
    smoothing: float = Field(0.5, ge=0, lt=1, description="Share of the earlier maps in the one that decides.")
    interval: int = Field(4, ge=1, le=100, description=(
        "The map is measured at the first step and then at the last one of every so many; each time costs a prediction."))
    start: float = Field(0.15, ge=0, lt=1, description=(
        "Share of the steps before which there is no customized path yet: the whole portrait is the original."))
    floor: float = Field(0.5, ge=0, lt=1, description=(
        "Where that product is not above this, a place is held wholly; from here to 1 the customized path gains weight."))
    heal: float = Field(0.85, ge=0, le=1, description=(
        "Share of the steps from which on held places are finished by the original model instead of being the original, "
        "so that seams close; 1 never does it."))

    def first_step(self, num_inference_steps: int) -> int:
        """The index of the first step that the customized path takes by itself."""
        return min(round(self.start * num_inference_steps), num_inference_steps - 1)

    def heals(self, step: int, num_inference_steps: int) -> bool:
        """Whether the original model finishes the held places at this step."""
        return step >= round(self.heal * num_inference_steps)


Scheduler = Literal["ddim", "dpmpp_2m", "euler", "unipc"]


class GenerationRequest(Schema):
    """What one press of Generate asks for."""

    model: Name = "pocket"
    customization: str | None = Field(
        None, max_length=600, description="A customization, or several with weights: 'winter-hat:0.7+neon:0.5'.")
    base_text: str = Field(max_length=MAX_TEXT)
    target_texts: tuple[Annotated[str, StringConstraints(max_length=MAX_TEXT)], ...] = Field((), max_length=MAX_TARGETS)
    target_weights: tuple[Annotated[float, Field(ge=0, le=2)], ...] = Field(
        (), max_length=MAX_TARGETS, description="How strongly each target phrase acts; none given means 1 for all.")
    negative_prompt: str = Field("", max_length=MAX_TEXT)
    seed: int = Field(0, ge=0, lt=2**63)
    num_inference_steps: int = Field(20, ge=1, le=200)
    guidance_scale: float = Field(5.0, ge=1.0, le=30.0)
    count: int = Field(1, ge=1, le=64, description="Pairs from so many seeds, beginning with `seed`; see `one_by_one`.")
    scheduler: Scheduler | None = Field(
        None, description="How the noise is removed; the model's own way if left out. A flow model has euler only.")
    height: int | None = Field(None, ge=16, le=4096, description="In pixels; the model's resolution if left out.")
    width: int | None = Field(None, ge=16, le=4096, description="In pixels; the model's resolution if left out.")
    guide: Annotated[MagnetConfig | StormConfig, Field(discriminator="name")] | None = Field(
        None, description="A training-free method that acts while the customized portrait is drawn.")
    hold: HoldConfig | None = Field(
        None, description="Outside the SFCM the original is held; not in the paper. Left out: as the paper draws.")
    map_steps: int = Field(
        5, ge=0, le=200, description="At how many of the steps M and the SFCM are drawn; 0 draws no maps.")

    @field_validator("customization")
    @classmethod
    def _customization(cls, value: str | None) -> str | None:
        return None if value is None else mix_text(mix_weights(value))

    @field_validator("base_text")
    @classmethod
    def _base_text(cls, value: str) -> str:
        value = " ".join(value.split())
        if not _says_something(value):
            raise ValueError("is empty; describe the portrait, for example 'a portrait of a person with red hair'")
        return value

    @field_validator("target_texts")
    @classmethod
    def _target_texts(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        cleaned = tuple(" ".join(value.split()) for value in values)
        if not all(map(_says_something, cleaned)):
            raise ValueError("contains an empty phrase; write what should change, or remove the phrase")
        if len(set(map(_core, cleaned))) != len(cleaned):
            raise ValueError("names the same phrase twice; remove one of them")
        return cleaned

    @field_validator("negative_prompt")
    @classmethod
    def _negative_prompt(cls, value: str) -> str:
        return " ".join(value.split())

    @model_validator(mode="after")
    def _target_differs(self) -> GenerationRequest:
        if _core(self.base_text) in map(_core, self.target_texts):
            raise ValueError("target_texts: equals base_text; write only what should change")
        if self.target_weights and len(self.target_weights) != len(self.target_texts):
            raise ValueError(f"target_weights: must hold one number for each of the {len(self.target_texts)} target phrases")
        return self

    def one_by_one(self) -> tuple[GenerationRequest, ...]:
        """A request of its own for every seed: `seed`, `seed` + 1, ... After the largest seed comes 0."""
        return tuple(self.model_copy(update={"seed": (self.seed + index) % 2**63, "count": 1}) for index in range(self.count))

    @property
    def hold_gain(self) -> float:
        """Of `hold`; 0 where nothing is held."""
        return self.hold.gain if self.hold else 0.0

    @property
    def weights(self) -> tuple[float, ...]:
        """One weight for every target phrase."""
        return self.target_weights or (1.0,) * len(self.target_texts)


def mix_weights(text: str) -> dict[str, float]:
    """'winter-hat:0.7+neon' as {'winter-hat': 0.7, 'neon': 1.0}. Raises ValueError with the remedy."""
    weights: dict[str, float] = {}
    for part in text.split("+"):
        name, colon, number = part.partition(":")
        if not re.fullmatch(NAME, name):
            raise ValueError(
                f"{_short(name)} is no name of a customization; write for example 'winter-hat' or 'winter-hat:0.7+neon:0.5'")
        if colon and not re.fullmatch(r"-?\d{1,3}(\.\d{1,6})?", number):
            raise ValueError(f"{_short(number)} is no weight; write for example '{name}:0.7'")
        if name in weights:
            raise ValueError(f"names '{name}' twice; give it one weight")
        weights[name] = float(number) if colon else 1.0
        if not 0 < abs(weights[name]) <= MAX_MIX_WEIGHT:
            raise ValueError(f"the weight of '{name}' must not be 0 and lie between -{MAX_MIX_WEIGHT:g} and {MAX_MIX_WEIGHT:g}")
    if len(weights) > MAX_MIX:
        raise ValueError(f"mixes {len(weights)} customizations; use at most {MAX_MIX}")
    return weights


def mix_text(weights: dict[str, float]) -> str:
    """The shortest way to write a mix: weights of 1 are left out."""
    return "+".join(name if weight == 1 else f"{name}:{weight:g}" for name, weight in weights.items())


def _says_something(text: str) -> bool:
    """Whether there is more in it than space and punctuation: a letter, number, mark or symbol (an emoji is one)."""
    return any(unicodedata.category(character)[0] in "LNMS" for character in text)


def _core(text: str) -> str:
    """Equal for texts that differ only in upper case and in the punctuation around them."""
    return text.strip(" ,.").casefold()


class EvaluatedMethod(Schema):
    """One row of a table: where its weights come from, and how it samples."""

    title: str = Field(min_length=1, max_length=80)
    train: dict[str, Any] | None = Field(
        None, description="Settings of the training run, dotted ('method.use_sfcm': false); None: nothing is trained.")
    start: Name | None = Field(None, description="The row whose weights training starts from, or sampling takes over.")
    customizations: dict[str, Name] = Field({}, description="Ready customizations instead, by target; '*' is every other one.")
    guide: Annotated[MagnetConfig | StormConfig, Field(discriminator="name")] | None = Field(
        None, description="A training-free method that acts while these weights are sampled.")
    hold: HoldConfig | None = Field(None, description="Outside the SFCM the original is held while these weights are sampled.")

    def ready(self, target: str) -> str | None:
        """The ready customization that shows a target, or several joined by '+'."""
        return self.customizations.get(target, self.customizations.get("*"))


class EvaluationTable(Schema):
    title: str
    rows: tuple[Name, ...] = Field(min_length=1)


class SensitivityConfig(Schema):
    """Fig. 14: one row of the evaluation trained again with other values of one setting at a time."""

    row: Name
    values: dict[str, tuple[float, ...]] = Field(description="By dotted training setting, 'method.lambda_text' for example.")
    targets: tuple[str, ...] = Field(min_length=1)


class ContinuousConfig(Schema):
    """Fig. 7a: one customization that knows several targets; `steps` are the phrases of each picture of the strip."""

    row: Name
    steps: tuple[tuple[str, ...], ...] = Field(min_length=1)
    seeds: int = Field(3, ge=1, le=20, description="Strips, one seed each.")


class EvaluationConfig(Schema):
    """A test set, the methods that draw it, and the metrics that compare (`python -m spf evaluate FILE`)."""

    name: Name = Field(description="Folder under home()/evaluation.")
    model: Name = "pocket"
    preset: Name = Field("quick", description="Training preset that every trained row starts from.")
    train: dict[str, Any] = Field({}, description="Settings of every trained row, dotted; a row has the last word.")
    targets: tuple[str, ...] = Field((), description="Held-out attributes of the embedded world; none means all.")
    split: Literal["test", "tune"] = Field("test", description="Tables come from 'test'; choices are made on 'tune'.")
    triples: int = Field(200, ge=1, le=100_000, description="(base caption, seed, target) per target.")
    pictures: int = Field(64, ge=1, le=10_000, description="Pictures that a target is taught with.")
    seed: int = Field(0, ge=0, lt=2**31)
    batch_size: int = Field(20, ge=1, le=1024)
    num_inference_steps: int | None = Field(None, ge=1, le=200, description="None: the model's own.")
    guidance_scale: float | None = Field(None, ge=1, le=30, description="None: the model's own.")
    methods: dict[Name, EvaluatedMethod] = Field(min_length=1)
    tables: dict[Name, EvaluationTable] = Field(description="By the number of the table in the paper.")
    by_target: tuple[Name, ...] = Field((), description="Rows that are also shown target by target.")
    reconstruction: tuple[Name, ...] = Field((), description="Fig. 13: rows that also draw the base text alone.")
    sensitivity: SensitivityConfig | None = None
    continuous: ContinuousConfig | None = None
    backends: dict[str, Literal["embedded", "published"]] = Field({}, description="By metric; 'embedded' where not named.")
    weights: str | None = Field(None, description="Folder of published weights; None: home()/metrics.")
    resamples: int = Field(1000, ge=10, le=100_000, description="Of the bootstrap.")
    response_floor: float = Field(85, ge=0, le=100, description="Per cent of target response from which a row is ranked.")
    sheet_rows: int = Field(4, ge=1, le=50, description="Seeds on a contact sheet.")
    publish: str | None = Field(None, description="Markdown file to write the results to, relative to the repository.")

    @model_validator(mode="after")
    def _rows_exist(self) -> EvaluationConfig:
        named = {f"tables.{key}": table.rows for key, table in self.tables.items()}
        named |= {"reconstruction": self.reconstruction, "by_target": self.by_target}
        named |= {f"methods.{name}.start": (row.start,) for name, row in self.methods.items() if row.start}
        named |= {part: (value.row,) for part in ("sensitivity", "continuous") if (value := getattr(self, part))}
        for field, rows in named.items():
            if unknown := [row for row in rows if row not in self.methods]:
                raise ValueError(f"{field}: '{unknown[0]}' is not among the methods; add it there or correct the name")
        return self

    @property
    def shown(self) -> tuple[str, ...]:
        """Rows of a table; the others are trained where another row starts from them, and not drawn. Without tables all."""
        named = {row for table in self.tables.values() for row in table.rows} | set(self.by_target)
        return tuple(row for row in self.methods if row in named) or tuple(self.methods)

    @model_validator(mode="after")
    def _titles_tell_rows_apart(self) -> EvaluationConfig:
        for field, rows in [(f"tables.{key}", table.rows) for key, table in self.tables.items()] + [
                ("reconstruction", self.reconstruction)]:
            titles = [self.methods[row].title for row in dict.fromkeys(rows)]
            if twice := [title for title in titles if titles.count(title) > 1]:
                raise ValueError(f"{field}: two rows have the title '{twice[0]}'; give one of them another")
        return self


class PretrainConfig(Schema):
    """How the embedded models are trained from nothing (`configs/pretrain/<name>.yaml`)."""

    family: Literal["unet"] = "unet"
    seed: int = Field(0, ge=0)
    pictures: int = Field(ge=64, description="Rendered pictures, held-out target attributes included.")
    target_share: float = Field(0.3, ge=0, lt=1, description="Share of pictures with a target attribute.")
    resolution: int = Field(128, ge=64, multiple_of=16)
    vocabulary: int = Field(1024, ge=520, le=49408)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    autoencoder: ComponentConfig
    clip: ComponentConfig
    denoiser: ComponentConfig


class FlowPretrainConfig(Schema):
    """How an embedded MM-DiT is trained, on the pictures, the autoencoder and the CLIP of another preset."""

    family: Literal["mmdit"]
    base: Name = Field(description="The preset whose autoencoder and CLIP are taken over as they are trained.")
    ema_decay: float = Field(0.999, ge=0, lt=1)
    text_encoder_2: ComponentConfig
    text_encoder_3: TextEncoderConfig
    denoiser: ComponentConfig


class RecogniserPretrainConfig(Schema):
    """How the recogniser is trained, on the pictures of another preset."""

    family: Literal["recogniser"]
    base: Name = Field(description="The preset whose pictures it learns from, and whose autoencoder softens some of them.")
    masks: int = Field(ge=1, description="How many of the pictures come with part masks.")
    softened: int = Field(ge=1, description="How many of the pictures are also seen through the autoencoder.")
    seed: int = Field(0, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    recogniser: ComponentConfig


class TextEncoderConfig(Schema):
    """A T5 encoder that is trained together with the denoiser, and its tokenizer."""

    architecture: dict[str, Any] = Field(description="transformers.T5Config.")
    vocabulary: int = Field(ge=256, le=32_128)
    length: int = Field(ge=8, le=256, description="Tokens a prompt is padded to.")


class ComponentConfig(Schema):
    """One embedded network: its architecture (passed to the library that builds it) and its optimisation."""

    architecture: dict[str, Any]
    samples: int = Field(ge=1, description="Training samples seen in all; the learning rate decays over them.")
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0, le=1)
    warmup_samples: int = Field(2000, ge=0)


PretrainConfig.model_rebuild()
FlowPretrainConfig.model_rebuild()
RecogniserPretrainConfig.model_rebuild()

Model = TypeVar("Model", bound=Schema)


def parse(schema: type[Model], values: dict[str, Any]) -> Model:
    """Build a schema from plain values. Raises InvalidInput naming the first bad field and the remedy."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise _readable(error) from None


def saved_request(values: dict[str, Any]) -> GenerationRequest:
    """A request that may be from when `hold` had fewer settings, and drew as with these. Raises as `parse` does."""
    if isinstance(values, dict) and isinstance(hold := values.get("hold"), dict):
        values = {**values, "hold": {"start": 0.0, "floor": 0.0, "heal": 1.0, **hold}}
    return parse(GenerationRequest, values)


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping. Raises InvalidInput naming the file."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(str(path), "does not exist") from None
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise InvalidInput(str(path), f"cannot be read as YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise InvalidInput(str(path), "must hold 'key: value' lines")
    return values


def model_presets() -> dict[str, Path]:
    """Names of the models in configs/models, then of this user's own, and their files."""
    roots = (home() / "models", CONFIGS / "models")  # a name of the project's is never another model
    found = {path.stem: path for root in roots for path in sorted(root.glob("*.yaml"))}
    return dict(sorted(found.items(), key=lambda item: (item[1].parent != CONFIGS / "models", item[0])))


def model_preset(name: str) -> ModelPreset:
    """The preset called `name`. Raises ModelNotFound naming those that exist, or InvalidInput naming the file and setting."""
    presets = model_presets()
    if name not in presets:
        raise ModelNotFound(f"model: '{name}' is not known; choose one of {', '.join(presets)}.")
    try:
        return parse(ModelPreset, load_yaml(presets[name]))
    except InvalidInput as error:
        if error.field == str(presets[name]):  # not even YAML
            raise
        raise InvalidInput(str(presets[name]), str(error)) from None


def training_presets() -> dict[str, Path]:
    """Names of the presets in configs/training and their files."""
    return {path.stem: path for path in sorted((CONFIGS / "training").glob("*.yaml"))}


def train_config(preset: str, overrides: dict[str, Any]) -> TrainConfig:
    """The training preset `preset` with dotted overrides ('stage2.learning_rate': 1e-4) applied.

    Method options that neither names are those of the model.
    """
    presets = training_presets()
    if preset not in presets:
        raise InvalidInput("preset", f"'{preset}' is not known; choose one of {', '.join(presets)}")
    values = load_yaml(presets[preset])
    model = model_preset(str(overrides.get("model", values.get("model"))))
    values["method"] = model.method.model_dump() | values.get("method", {})
    recipe, tuned = str(overrides.get("recipe", values.get("recipe", "spf"))), values.pop("recipes", {})
    if unknown := tuned.keys() - RECIPES.keys():
        raise InvalidInput("recipes", f"'{min(unknown)}' of {preset}.yaml is not known; choose from {', '.join(RECIPES)}")
    for changes in (RECIPES.get(recipe, {}), tuned.get(recipe, {})):
        values = _merged(values, copy.deepcopy(changes))
    return parse(TrainConfig, with_overrides(values, overrides))


def evaluation_config(path: Path, overrides: dict[str, Any]) -> EvaluationConfig:
    """An evaluation's file with dotted overrides applied. Raises InvalidInput naming the file or the setting.

    A file that says 'extends: other.yaml' stands for that file beside it with its own settings on top; null takes one away.
    """
    return parse(EvaluationConfig, with_overrides(_extended(path), overrides))


def _extended(path: Path, of: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A file's values on top of those it extends. `of`: the files that led here, each of which extends the next."""
    if (here := path.resolve()) in of:
        raise InvalidInput("extends", f"{path} stands on itself by way of {of[-1].name}; remove one of these lines")
    values = load_yaml(path)
    if (base := values.pop("extends", None)) is None:
        return values
    return _without_null(_merged(_extended(path.parent / str(base), (*of, here)), values))


def _without_null(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _without_null(value) if isinstance(value, dict) else value for key, value in values.items()
            if value is not None}


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with `changes` on top; mappings in them are merged, everything else is replaced."""
    both = {key: _merged(values[key], change) for key, change in changes.items()
            if isinstance(change, dict) and isinstance(values.get(key), dict)}
    return {**values, **changes, **both}


def with_overrides(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`values`, in which each dotted name of `overrides` got its value. Raises InvalidInput."""
    for dotted, value in overrides.items():
        *parents, leaf = dotted.split(".")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise InvalidInput(dotted, f"'{parent}' has no parts")
        node[leaf] = value
    return values


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """['stage2.learning_rate=1e-4', ...] as a mapping; values are read as YAML scalars. Raises InvalidInput."""
    result: dict[str, Any] = {}
    for assignment in assignments:
        match = re.fullmatch(r"([A-Za-z0-9_.]+)=(.*)", assignment, re.DOTALL)
        if not match:
            raise InvalidInput("--set", f"'{assignment}' is not of the form key=value")
        key, text = match.groups()
        try:
            # YAML 1.1 reads 1e-4 as a string: only a mantissa with a dot is a float there.
            result[key] = float(text) if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text) else yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):  # ValueError: a date that does not exist, a number of 5,000 digits
            raise InvalidInput(key, f"{_short(text)} cannot be read as a YAML value; put quotes around it") from None
    return result


def _readable(error: ValidationError) -> InvalidInput:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] == "extra_forbidden":
        message = "is not a known setting; check the spelling"
    elif first["type"] == "missing" or first["input"] is None:
        message = "is missing; give it a value"
    elif first["type"] == "string_pattern_mismatch":
        message = "may hold lower-case letters, digits, '.', '_' and '-' only, 64 at most, and begins with a letter or digit"
    elif first["type"] == "string_too_long":
        message = f"is too long ({len(str(first['input'])):,} characters); use at most {first['ctx']['max_length']:,}"
    if not field:  # about the whole: our own validators begin with the field
        field, message = message.split(": ", 1) if ": " in message else ("settings", message)
    if first["type"] not in ("extra_forbidden", "missing", "value_error", "string_too_long") and first["input"] is not None:
        message += f" (got {_short(first['input'])})"
    return InvalidInput(field, message)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
