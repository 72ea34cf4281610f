import pytest

from spf.config import GenerationRequest, MethodConfig, parse
from spf.generation.pair import Pair

BASE, TARGETS = "a person, with red hair, on a blue background", ("a winter hat",)


@pytest.fixture
def ask():
    """ask(key=value): a small request."""

    def make(**values) -> GenerationRequest:
        return parse(GenerationRequest, {
            "model": "tiny", "base_text": BASE, "target_texts": TARGETS, "seed": 3, "num_inference_steps": 3,
            "guidance_scale": 3.0, "map_steps": 2, **values})

    return make


@pytest.fixture
def pair(backbone, response, clip, ask):
    """pair(response=..., method=..., key=value): both paths at 32x32 pixels, ready to run."""

    def make(response=response, method=None, **values) -> Pair:
        return Pair(backbone, response, clip, 32, ask(**values), method or MethodConfig())

    return make


@pytest.fixture
def counted():
    """counted(backbone): the list of (x_t, t) that its predictions are from now on asked for."""

    def make(backbone) -> list:
        calls, predict = [], backbone.predict

        def counting(x_t, t, text):
            calls.append((x_t.clone(), t.clone()))
            return predict(x_t, t, text)

        backbone.predict = counting
        return calls

    return make
