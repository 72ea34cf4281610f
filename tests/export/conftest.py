"""A tiny model in the published shape of Stable Diffusion 1.x or 3, a customization of it, and the folders they live in."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "backbones"))  # for `published`

import published  # noqa: E402

from spf import config, library  # noqa: E402
from spf.backbones import checkpoints  # noqa: E402
from spf.library import CustomizationCard  # noqa: E402


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Diffusers folders by family. Read-only."""
    return {"unet": published.save_folder(published.sd15(), tmp_path_factory.mktemp("sd15")),
            "mmdit": published.save_folder(published.sd35(), tmp_path_factory.mktemp("sd35"))}


@pytest.fixture
def family() -> str:
    return "unet"


@pytest.fixture
def preset(family, folders, tmp_path, monkeypatch) -> config.ModelPreset:
    """The only model there is, called 'published'."""
    made = published.preset(folders[family], family)
    (tmp_path / "configs" / "models").mkdir(parents=True)
    (tmp_path / "configs" / "models" / "published.yaml").write_text(
        yaml.safe_dump(made.model_dump(mode="json", exclude_defaults=True)))
    monkeypatch.setattr(config, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(library, "SHIPPED", tmp_path / "shipped")
    return made


@pytest.fixture
def taught(preset) -> checkpoints.Customization:
    """A customization 'hat' that changed matrices, kernels, biases and norms, most of it in a few directions."""
    state = checkpoints.load_backbone(preset).denoiser.state_dict()
    generator = torch.Generator().manual_seed(1)
    changed = {}
    for name, value in state.items():
        if "pos_embed" in name or value.ndim == 0:
            continue
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim >= 2:
            flat = value.flatten(1)
            noise = 0.1 * noise + (torch.randn(flat.shape[0], 2, generator=generator)
                                   @ torch.randn(2, flat.shape[1], generator=generator)).view_as(value)
        changed[name] = value + 0.05 * noise
    card = CustomizationCard(name="hat", model="published", model_sha256=checkpoints.denoiser_hash(preset),
                             phrases=("a winter hat",), stage="both", created="2026-01-01T00:00:00Z", summary={"pictures": 4})
    return checkpoints.save_customization(card, changed)
