"""Which decoder L_enhanced gets: a tiny autoencoder only where it lies on this computer, else the full one, checkpointed."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from spf import config
from spf.backbones import loading, source
from spf.config import MethodConfig
from spf.errors import ModelNotFound
from spf.training import identity
from spf.training import run as run_module
from spf.training.offload import unused
from spf.training.stages import DualPathStage, set_trainable


@pytest.fixture
def full(backbone):
    """A model whose own autoencoder is no tiny one."""
    torch.manual_seed(0)
    backbone.vae = AutoencoderKL(
        block_out_channels=(8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4, latent_channels=4).requires_grad_(False)
    return backbone


@pytest.fixture
def asking(tiny, monkeypatch):
    """asking(folder): settings of a run that asks for the tiny decoder of a preset that names this place."""
    def make(tiny_vae) -> config.TrainConfig:
        named = config.model_preset("tiny").model_copy(update={"tiny_vae": None if tiny_vae is None else str(tiny_vae)})
        monkeypatch.setattr(config, "model_preset", lambda name: named)
        return config.train_config("tiny", {"data": "x", "name": "x", "tiny_decoder": True})

    return make


def saved(folder, channels=4):
    torch.manual_seed(1)
    AutoencoderTiny(decoder_block_out_channels=(8, 8, 8), encoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 1, 1),
                    num_decoder_blocks=(1, 1, 1), latent_channels=channels).save_pretrained(folder)
    return folder


def test_one_that_is_here_decodes_with_gradient_and_the_full_one_may_wait(full, clip, empty, examples, asking, tmp_path):
    settings = asking(saved(tmp_path / "taesd"))
    decoder = run_module.tiny_decoder(settings, full)
    latents = torch.randn(1, 4, 8, 8)
    network = AutoencoderTiny.from_pretrained(tmp_path / "taesd")
    torch.testing.assert_close(decoder(latents), network.decode(latents).sample)
    trained = set_trainable(full, "cross")
    method = MethodConfig(enhanced_max_amplification=100.0)
    stage = DualPathStage(full, full, clip, method, empty, decoder=decoder)
    assert set(full.vae.children()) <= set(unused(stage, full, clip))
    full.vae.to("meta")
    stage.training_forward(examples, torch.Generator().manual_seed(0))[0]["enhanced"].backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained)
    assert identity.enhanced_decoder(config.model_preset("tiny")) == "tiny"


def test_without_one_the_full_decoder_recomputes_and_nobody_is_asked_for_it(full, asking, monkeypatch):
    monkeypatch.setattr(source, "_cached_snapshot", lambda preset, name: (_ for _ in ()).throw(ModelNotFound(name)))
    assert not full.vae.decoder.gradient_checkpointing
    assert run_module.tiny_decoder(asking(None), full) is None
    assert full.vae.decoder.gradient_checkpointing and not full.denoiser.is_gradient_checkpointing
    assert identity.enhanced_decoder(config.model_preset("tiny")) == "own"


def test_a_model_that_decodes_by_a_tiny_one_keeps_its_own(backbone, asking):
    assert run_module.tiny_decoder(asking("/nowhere"), backbone) is None


@pytest.mark.parametrize("channels, spoil, words", [
    (4, lambda folder: (folder / "config.json").unlink(), "does not exist or holds no config.json"),
    (8, lambda folder: None, "no tiny autoencoder of 4 latent channels"),
    (4, lambda folder: (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"\x80\x04 pickle"), "pickle")])
def test_a_damaged_or_foreign_one_is_refused_by_name(full, asking, tmp_path, channels, spoil, words):
    folder = saved(tmp_path / "taesd", channels)
    spoil(folder)
    with pytest.raises(ModelNotFound, match=words):
        run_module.tiny_decoder(asking(folder), full)


def test_it_is_not_read_to_be_refused(asking, tmp_path, monkeypatch, full):
    settings = asking(saved(tmp_path / "taesd", 8))
    path = tmp_path / "taesd" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(loading, "_read_component", lambda *args: pytest.fail("read"))
    with pytest.raises(ModelNotFound, match="cut off"):
        run_module.tiny_decoder(settings, full)


@pytest.mark.parametrize("changes, more", [
    ({}, {}), ({"reference_precision": "bf16"}, {"reference_precision": "bf16"}),
    ({"tiny_decoder": True}, {"enhanced_decoder": "own"})])
def test_only_runs_that_use_them_are_tied_to_them(tiny, changes, more):
    settings = config.train_config("tiny", {"data": "x", "name": "x"})
    plain = identity.identity(settings, tiny, [], 1)
    assert identity.identity(settings.model_copy(update=changes), tiny, [], 1) == plain | more
