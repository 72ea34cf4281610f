import pytest
import torch

from spf.config import GenerationRequest, MethodConfig, parse
from spf.generation.pair import Pair


@pytest.fixture
def make_pair(backbone, response, clip):
    """make_pair(guide, key=value): a generation of the tiny models, whose response path differs from the reference."""

    def make(guide=None, **changes) -> Pair:
        request = parse(GenerationRequest, {
            "model": "tiny", "base_text": "a person, with red hair, in a blue shirt", "target_texts": ["a winter hat"],
            "num_inference_steps": 4, "map_steps": 0, **changes})
        with torch.inference_mode():
            return Pair(backbone, response, clip, 32, request, MethodConfig(), guide)

    return make
