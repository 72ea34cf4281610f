from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from spf.config import StageConfig
from spf.data.batches import Examples
from spf.data.records import Record
from spf.method.phrases import join_prompt

TEXTS = (
    ("a person, with red hair, smiling", "a winter hat"),
    ("a person, on a blue background", "a winter hat"),
    ("a portrait of a person, with a red bob haircut", "a turban"),
    ("a person", "a winter hat"),
)


@pytest.fixture
def examples(backbone, clip) -> Examples:
    """Four examples with random latents, gammas and picture embeddings; their prompts have 1 to 3 phrases."""
    generator = torch.Generator().manual_seed(3)
    full = backbone.encode_prompts([join_prompt(base, [target]) for base, target in TEXTS])
    images = torch.randn(len(TEXTS), 16, generator=generator)
    return Examples(
        latents=torch.randn(len(TEXTS), 4, 8, 8, generator=generator), full=full,
        base=backbone.encode_prompts([join_prompt(base, ()) for base, _ in TEXTS]),
        gamma=torch.rand(len(TEXTS), full.phrase_weights.shape[-1], generator=generator),
        target_embedding=clip.embed_texts([target for _, target in TEXTS]),
        image_embedding=images / images.norm(dim=1, keepdim=True),
        records=tuple(Record(Path(f"{i}.png"), base, target) for i, (base, target) in enumerate(TEXTS)))


@pytest.fixture
def empty(backbone):
    return backbone.encode_prompts([join_prompt("", ())])


@pytest.fixture
def any_precision():
    """accelerate keeps one precision for the life of a process; a test that needs another one starts and ends it."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture
def stage_config():
    """stage_config(key=value): few steps, few pictures."""

    def make(**changes) -> StageConfig:
        return StageConfig(**{"learning_rate": 1e-3, "train_batch_size": 2, "num_train_epochs": 1, "max_train_steps": 3,
                              "trainable": "cross", **changes})

    return make
