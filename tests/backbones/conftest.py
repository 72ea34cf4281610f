"""Tiny models in the published formats, made once."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for `published`, under every import mode of pytest

import published  # noqa: E402


@pytest.fixture(scope="session")
def sd15():
    return published.sd15()


@pytest.fixture(scope="session")
def sd35():
    return published.sd35()


@pytest.fixture(scope="session")
def sd15_folder(sd15, tmp_path_factory):
    """A diffusers folder; also the architecture of single files. Read-only."""
    return published.save_folder(sd15, tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="session")
def sd35_folder(sd35, tmp_path_factory):
    return published.save_folder(sd35, tmp_path_factory.mktemp("sd35"))


@pytest.fixture(scope="session")
def sd15_file(sd15, tmp_path_factory):
    return published.write(tmp_path_factory.mktemp("files") / "sd15.safetensors", published.ldm(sd15))


@pytest.fixture
def plain_and_recomputed():
    """Gradients of a loss on prediction and captured features, without and with gradient checkpointing."""
    def gradients(response, inputs):
        parameters = [parameter.requires_grad_() for _, parameter in response.trainable_parameters("full")]
        with response.capture() as features:
            prediction = response.predict(*inputs)
            layers = features.layers()
        loss = prediction.square().mean() + sum(
            (feature ** 4).mean() for layer in layers
            for feature in (layer.image, layer.text, layer.image_key, layer.image_value, layer.attention.text_key))
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    def both(response, inputs):
        plain = gradients(response, inputs)
        response.denoiser.enable_gradient_checkpointing()
        return plain, gradients(response, inputs)

    return both
