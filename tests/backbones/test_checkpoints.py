"""Models and customizations on disk: what loads, what is refused by name, and that a save is all or nothing."""

import os
import pickle
import shutil

import published
import pytest
import torch
from safetensors import SafetensorError

from spf import files, library
from spf.backbones import checkpoints
from spf.backbones.checkpoints import customization, load_backbone, save_customization
from spf.config import home
from spf.errors import CustomizationError, ModelNotFound
from spf.files import save_tensors
from spf.library import WEIGHTS, CustomizationCard, customizations
from spf.method.phrases import join_prompt


@pytest.fixture(autouse=True)
def shipped(tmp_path, monkeypatch):
    """No shipped customizations but those that a test puts there."""
    monkeypatch.setattr(library, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "shipped"


@pytest.fixture
def card(tiny) -> CustomizationCard:
    return CustomizationCard(
        name="hat", model="tiny", model_sha256=checkpoints.denoiser_hash(tiny), phrases=("a winter hat",), stage="both",
        created="2026-01-01T00:00:00Z", summary={"pictures": 4})


@pytest.fixture
def changed(response) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in response.trainable_parameters("cross")}


@pytest.fixture
def saved(card, changed):
    return save_customization(card, changed)


def predicted(backbone):
    x_t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return backbone.predict(x_t, torch.tensor([500]), backbone.encode_prompts([join_prompt("a person", ["a hat"])]))


# models

def test_a_saved_model_predicts_what_it_did_before(tiny, backbone):
    loaded = load_backbone(tiny)
    assert torch.equal(predicted(loaded), predicted(backbone))
    assert torch.equal(loaded.decode(torch.ones(1, 4, 8, 8)), backbone.decode(torch.ones(1, 4, 8, 8)))
    assert torch.equal(loaded.objective.alphas_cumprod, backbone.objective.alphas_cumprod)


@pytest.mark.parametrize("part", [
    "tokenizer/tokenizer.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "text_encoder/config.json",
    "text_encoder/model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json"])
def test_a_missing_file_is_named_with_the_remedy(tiny, model_folder, tmp_path, part):
    shutil.copytree(model_folder, tmp_path / "model", copy_function=os.link)
    (tmp_path / "model" / part).unlink()
    broken = tiny.model_copy(update={"pretrained_model_name_or_path": str(tmp_path / "model")})
    with published.headers_alone(), pytest.raises(ModelNotFound, match="does not exist; restore it") as caught:
        load_backbone(broken)
    assert str(tmp_path / "model" / part) in str(caught.value)


@pytest.mark.parametrize("part", [
    "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "vae/config.json", "unet/config.json"])
def test_a_damaged_file_is_refused_as_such(tiny, model_folder, tmp_path, part):
    shutil.copytree(model_folder, tmp_path / "model")
    path = tmp_path / "model" / part
    path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    with pytest.raises(ModelNotFound, match="damaged.*restore"):
        load_backbone(tiny.model_copy(update={"pretrained_model_name_or_path": str(tmp_path / "model")}))


def test_the_hash_follows_the_file(tiny, model_folder, tmp_path):
    shutil.copytree(model_folder / "unet", tmp_path / "unet")
    moved = tiny.model_copy(update={"pretrained_model_name_or_path": str(tmp_path)})
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    before = checkpoints.denoiser_hash(moved)
    assert before == checkpoints.denoiser_hash(tiny)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert checkpoints.denoiser_hash(moved) != before
    weights.unlink()
    with pytest.raises(ModelNotFound, match="restore"):
        checkpoints.denoiser_hash(moved)


# customizations

def test_a_customization_comes_back_as_it_was_rounded_to_half_precision(tiny, saved, card, changed, backbone, response):
    found = customization("hat", tiny)
    assert found.card == card and found.folder == saved.folder and not found.shipped
    tensors = found.tensors()
    assert tensors.keys() == changed.keys()
    assert all(torch.equal(tensors[name], value.half().float()) for name, value in changed.items())
    applied = backbone.fork()
    checkpoints.apply(applied, tensors)
    torch.testing.assert_close(predicted(applied), predicted(response), rtol=0.05, atol=0.01)
    assert not torch.equal(predicted(applied), predicted(backbone))


def test_only_what_changed_is_kept(backbone, response, changed):
    found = checkpoints.changed_tensors(backbone.denoiser.state_dict(), response.denoiser.state_dict())
    assert found.keys() == changed.keys()


def test_an_unknown_name_lists_the_known_ones(tiny, saved):
    with pytest.raises(CustomizationError, match="'cap' does not exist.*hat"):
        customization("cap", tiny)


def test_without_any_the_remedy_is_to_teach_one(tiny):
    with pytest.raises(CustomizationError, match="teach one"):
        customization("hat", tiny)


def test_one_of_another_model_is_refused(tiny, card, changed):
    saved = save_customization(card.model_copy(update={"model": "other", "model_sha256": "0" * 64}), changed)
    (saved.folder / WEIGHTS).write_bytes(b"never looked at")
    with pytest.raises(CustomizationError, match="'hat'.*another model than 'tiny'.*'other'"):
        customization("hat", tiny)


class _Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def damage(weights: bytes) -> dict[str, bytes]:
    return {"empty": b"", "cut off": weights[:len(weights) // 2], "header only": weights[:8], "noise": bytes(range(256)) * 40,
            "pickle": pickle.dumps(_Attack()), "huge header": b"\xff" * 8 + weights[8:]}


@pytest.mark.parametrize("kind", damage(b""))
def test_damaged_weights_are_refused_and_never_unpickled(tiny, saved, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = saved.folder / "weights.safetensors"
    path.write_bytes(damage(path.read_bytes())[kind])
    with pytest.raises(CustomizationError, match="cannot be read.*teach it again"):
        customization("hat", tiny).tensors()
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_that_are_no_numbers_are_not_even_written(card, changed, value):
    """1e6 is a number, but not in half precision."""
    first = next(iter(changed))
    with pytest.raises(CustomizationError, match=first):
        save_customization(card, changed | {first: torch.full_like(changed[first], value)})
    assert customizations() == {}


def test_one_of_weight_1_is_mixed_as_it_is_and_several_add_their_changes(tiny, saved, card, changed, backbone):
    other = {name: value + 1 for name, value in list(changed.items())[:2]}
    save_customization(card.model_copy(update={"name": "cap"}), other)
    hat, cap = customization("hat", tiny), customization("cap", tiny)
    alone = checkpoints.mixed(backbone, [(hat, 1.0)])
    assert all(torch.equal(alone[name], value) for name, value in hat.tensors().items())
    mixed = checkpoints.mixed(backbone, [(hat, 0.7), (cap, -0.5)])
    base = backbone.denoiser.state_dict()
    for name, value in mixed.items():
        expected = base[name] + 0.7 * (hat.tensors()[name] - base[name])
        if name in other:
            expected = expected - 0.5 * (cap.tensors()[name] - base[name])
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)
    assert mixed.keys() == changed.keys()


def test_what_does_not_fit_cannot_be_mixed(tiny, saved, card, backbone):
    save_customization(card.model_copy(update={"name": "cap"}), {"no.such.weight": torch.ones(2)})
    with pytest.raises(CustomizationError, match="'no.such.weight' of 'cap' cannot be mixed"):
        checkpoints.mixed(backbone, [(customization("hat", tiny), 0.5), (customization("cap", tiny), 0.5)])


def test_values_that_are_no_numbers_are_refused(tiny, saved, changed):
    tensors = {name: value.half().contiguous() for name, value in changed.items()}
    first = next(iter(tensors))
    tensors[first][0] = float("nan")
    save_tensors(tensors, saved.folder / "weights.safetensors")
    with pytest.raises(CustomizationError, match=f"not numbers.*{first}"):
        customization("hat", tiny).tensors()


def test_missing_weights_are_refused(tiny, saved):
    (saved.folder / "weights.safetensors").unlink()
    found = customization("hat", tiny)
    for look in (found.tensors, lambda: found.version):
        with pytest.raises(CustomizationError, match="weights.safetensors.*teach it again"):
            look()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"name": "hat"}', "\x00\xff"])
def test_an_unreadable_card_hides_only_its_own_customization(tiny, saved, card, changed, content):
    save_customization(card.model_copy(update={"name": "cap"}), changed)
    (saved.folder / "customization.json").write_bytes(content.encode("latin-1"))
    assert list(customizations()) == ["cap"]
    with pytest.raises(CustomizationError, match="'hat' does not exist or cannot be read"):
        customization("hat", tiny)


def test_a_card_that_names_files_elsewhere_is_not_listed(card, saved):
    (saved.folder / "customization.json").write_text(card.model_dump_json().replace('"hat"', '"../../hat"'))
    assert customizations() == {}


@pytest.mark.parametrize("tensors", [
    {"no.such.weight": torch.ones(2)}, {"conv_in.weight": torch.ones(2)}, {"conv_in.bias": torch.ones(33)}])
def test_what_does_not_fit_changes_nothing(backbone, changed, tensors):
    before = {name: value.clone() for name, value in backbone.denoiser.state_dict().items()}
    with pytest.raises(CustomizationError, match=next(iter(tensors))):
        checkpoints.apply(backbone, changed | tensors)
    assert all(torch.equal(value, before[name]) for name, value in backbone.denoiser.state_dict().items())


def test_the_users_own_comes_before_a_shipped_one(card, changed, shipped):
    save_customization(card, changed, root=shipped)
    assert customizations()["hat"].shipped
    save_customization(card, changed)
    assert not customizations()["hat"].shipped


# a save is all or nothing

def test_saving_again_replaces(tiny, saved, card, changed):
    before = saved.version
    save_customization(card.model_copy(update={"stage": "2"}), {name: 2 * value for name, value in changed.items()})
    found = customization("hat", tiny)
    assert found.card.stage == "2" and found.version != before
    assert all(torch.equal(value, (2 * changed[name]).half().float()) for name, value in found.tensors().items())
    assert [path.name for path in saved.folder.parent.iterdir()] == ["hat"]


@pytest.mark.parametrize("broken", ["save_file", "rename"])
def test_a_failed_save_leaves_the_old_one_and_no_litter(tiny, saved, card, changed, monkeypatch, broken):
    rename = os.rename

    def half_written(_tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def refused(source, target):
        if str(source).endswith(".hat.partial"):
            raise OSError("Permission denied")
        rename(source, target)

    if broken == "save_file":
        monkeypatch.setattr("safetensors.torch.save_file", half_written)
    else:
        monkeypatch.setattr(os, "rename", refused)
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    with pytest.raises(OSError):
        save_customization(card.model_copy(update={"stage": "2"}), {name: 2 * value for name, value in changed.items()})
    found = customization("hat", tiny)
    assert found.card == card
    assert all(torch.equal(value, changed[name].half().float()) for name, value in found.tensors().items())
    assert [path.name for path in saved.folder.parent.iterdir()] == ["hat"]


@pytest.mark.parametrize("name", [".hat.partial", ".hat.replaced-1"])
def test_what_a_killed_process_left_behind_is_never_used(saved, card, name):
    left = saved.folder.with_name(name)
    shutil.copytree(saved.folder, left)
    (left / "customization.json").write_text(card.model_copy(update={"stage": "old"}).model_dump_json())
    assert [found.card.stage for found in customizations().values()] == ["both"]


def test_asking_creates_no_folder(spf_home, tiny):
    customizations()
    assert home() == spf_home.resolve() and not spf_home.exists()
