"""Every recipe and every variant of Appendix E as a whole run on the tiny model: pictures in, a customization out."""

import pytest
import torch

from app import LateService
from spf import config
from spf.backbones import checkpoints
from spf.baselines.registry import GUIDES, VARIANTS, training_stages
from spf.config import GenerationRequest, parse
from spf.errors import InvalidInput
from spf.generation.service import GenerationService
from spf.pocket.dataset import render_folder
from spf.training import preview
from spf.training.run import Run
from spf.training.run_folder import RunFolder

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def masked_folder(tmp_path_factory):
    return render_folder("winter-hat", 2, tmp_path_factory.mktemp("masked") / "hats", size=64, masks=True)


@pytest.fixture
def train(tiny, masked_folder, spf_home, monkeypatch):
    """train(key=value): the customization that a whole run writes."""
    monkeypatch.setattr(preview.Preview, "__call__", lambda *args: None)  # drawing would be most of the work

    def run(**overrides):
        values = {"data": str(masked_folder), "name": "hat", "stage1.max_train_steps": 1, "stage2.max_train_steps": 1}
        settings = config.train_config("tiny", values | {name.replace("__", "."): value for name, value in overrides.items()})
        return Run(settings, RunFolder.create(spf_home / "runs", settings), CPU, training_stages).execute()

    return run


def attention(name: str) -> bool:
    return ".attn1.to_" in name or ".attn2.to_" in name


@pytest.mark.parametrize("recipe, allowed", [
    ("standard", lambda name: True), ("lora", attention), ("adalora", attention), ("tokencompose", lambda name: True)])
def test_a_recipe_writes_plain_tensors_of_what_it_may_change(train, tiny, recipe, allowed):
    written = train(recipe=recipe)
    known = checkpoints.load_backbone(tiny).denoiser.state_dict()
    changed = written.tensors()
    assert changed and changed.keys() <= known.keys() and all(map(allowed, changed))
    summary = written.card.summary
    assert (summary["recipe"], summary["stage1_steps"], summary["stage2_steps"]) == (recipe, 2, 0)


@pytest.mark.parametrize("variant, added", [("lora-cross-attention", False), ("adapter-cross-attention", True)])
def test_a_variant_of_stage_2_writes_what_generation_uses(train, tiny, variant, added):
    written = train(stage="2", stage2__learning_rate=0.1, **VARIANTS[variant])
    assert all((".parallel." in name) == added and ".attn2." in name for name in written.tensors())
    service = GenerationService(CPU)
    plain, customized = (service.generate(ask(customization=name)) for name in (None, "hat"))
    assert customized.original.tobytes() == plain.original.tobytes()
    assert customized.customized.tobytes() != plain.customized.tobytes()


def test_the_page_and_its_api_draw_with_the_guides_of_the_command_line(tiny, monkeypatch):
    monkeypatch.setattr("spf.baselines.magnet.nouns", lambda: ("hat", "cap", "hair"))
    request = ask(guide={"name": "magnet"})
    page, command_line = LateService("cpu").generate(request), GenerationService(CPU, GUIDES).generate(request)
    assert page.customized.tobytes() == command_line.customized.tobytes()
    assert page.customized.tobytes() != GenerationService(CPU).generate(ask()).customized.tobytes()


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_acts_on_the_weights_of_stage_1(train, name, monkeypatch):
    from spf.baselines import magnet

    monkeypatch.setattr(magnet, "nouns", lambda: ("hat", "cap", "hair"))
    train(recipe="standard")
    service = GenerationService(CPU, GUIDES)
    plain, guided = (service.generate(ask(customization="hat", guide=guide)) for guide in (None, {"name": name}))
    assert guided.original.tobytes() == plain.original.tobytes() and guided.customized.tobytes() != plain.customized.tobytes()
    with pytest.raises(InvalidInput, match=f"guide: '{name}' is not offered here"):
        GenerationService(CPU).generate(ask(guide={"name": name}))


def ask(**changes) -> GenerationRequest:
    return parse(GenerationRequest, {
        "model": "tiny", "base_text": "a person, with red hair", "target_texts": ["a winter hat"], "num_inference_steps": 4,
        "map_steps": 0, **changes})
