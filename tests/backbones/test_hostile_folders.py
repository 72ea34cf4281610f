"""Folders whose settings make no sense, whose files are endless or whose index lies: one sentence, and nothing is built."""

import json
import os
import resource
import shutil

import published
import pytest

from spf.backbones import source
from spf.backbones.layouts import MAX_CONFIG, read_architecture
from spf.backbones.loading import load_backbone
from spf.config import model_preset
from spf.errors import InvalidInput, ModelNotFound


@pytest.fixture
def folder(sd15_folder, tmp_path):
    """A copy of the model that the test may damage."""
    return shutil.copytree(sd15_folder, tmp_path / "model")


def refusal(folder) -> str:
    with pytest.raises(ModelNotFound) as caught:
        load_backbone(published.preset(folder))
    message = str(caught.value)
    assert message.startswith("model: ") and str(folder) in message and len(message) < 500 and "\n" not in message
    return message


def changed(path, **settings) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize("part, settings", [
    ("unet", {"_class_name": ["UNet2DConditionModel"]}), ("unet", {"in_channels": [4]}), ("unet", {"out_channels": 9}),
    ("unet", {"block_out_channels": "x"}), ("unet", {"attention_head_dim": 0}), ("unet", {"layers_per_block": 10**9}),
    ("unet", {"transformer_layers_per_block": [[10**9]]}), ("unet", {"cross_attention_dim": 10**15}),
    ("vae", {"_class_name": {"a": 1}}), ("vae", {"norm_num_groups": 0}), ("vae", {"down_block_types": [7]}),
    ("text_encoder", {"num_attention_heads": {}}), ("text_encoder", {"attention_dropout": []}),
    ("text_encoder", {"num_hidden_layers": 10**9}), ("text_encoder", {"hidden_size": None}),
])
def test_settings_that_make_no_sense_are_refused_before_anything_is_built(folder, part, settings):
    changed(folder / part / "config.json", **settings)
    with published.headers_alone():
        refusal(folder)


@pytest.mark.parametrize("file, settings", [
    ("scheduler/scheduler_config.json", {"num_train_timesteps": "x"}), ("scheduler/scheduler_config.json", {"beta_end": 2.0}),
    ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}),
    ("scheduler/scheduler_config.json", {"beta_schedule": 1}),
    ("tokenizer/tokenizer_config.json", {"unk_token": [1, "x"]}), ("tokenizer/tokenizer_config.json", {"bos_token": -1}),
])
def test_a_schedule_or_vocabulary_that_makes_no_sense_is_refused(folder, file, settings):
    changed(folder / file, **settings)
    refusal(folder)


def test_code_that_a_configuration_names_is_never_run(folder, tmp_path):
    (folder / "text_encoder" / "evil.py").write_text(f"open({str(tmp_path / 'attacked')!r}, 'w')\nclass Evil: pass\n")
    named = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
    changed(folder / "text_encoder" / "config.json", model_type="evil", auto_map=named)
    load_backbone(published.preset(folder))
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("listed", [[None, None], None, "vae", 7, {"a": 1}, []])
def test_an_index_cannot_take_away_what_a_model_needs(folder, listed):
    (folder / "model_index.json").write_text(json.dumps({"vae": listed, "unet": listed}))
    assert load_backbone(published.preset(folder))
    shutil.rmtree(folder / "vae")
    assert str(folder / "vae" / "config.json") in refusal(folder)


@pytest.mark.parametrize("file", ["unet/config.json", "tokenizer/tokenizer.json", "scheduler/scheduler_config.json",
                                  "text_encoder/config.json", "model_index.json"])
def test_an_endless_text_is_not_read(folder, file):
    (folder / file).touch()
    os.truncate(folder / file, 64 << 30)  # sparse: it takes no space
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with published.headers_alone():
        refusal(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * MAX_CONFIG >> 10  # kB


def registered(asked):
    return source.register_model(asked.pretrained_model_name_or_path)


@pytest.mark.parametrize("act, part", [
    *((act, part) for act in (source.require_model, registered) for part in ("unet", "vae", "text_encoder")),
    (source.denoiser_hash, "unet")])
def test_endless_weights_are_refused_by_their_first_bytes(folder, spf_home, part, act):
    """By whoever looks first: doctor, the check of a customization, or the one who makes it a model of their own."""
    path = next((folder / part).glob("*.safetensors"))
    path.write_bytes(b"")
    os.truncate(path, 1 << 40)
    with published.headers_alone() as read, pytest.raises(ModelNotFound, match="is damaged"):
        act(published.preset(folder))
    assert read[path] <= 9 and not (spf_home / "models").exists()


def test_the_published_architectures_are_within_the_limits():
    for path in source.ARCHITECTURES.glob("*/*/config.json"):
        assert read_architecture(path)


@pytest.mark.parametrize("text, words", [("foo: 1", "name: is missing"), ("- [", "cannot be read as YAML"), ("x", "must hold")])
def test_a_damaged_preset_is_named_and_disturbs_no_other(folder, spf_home, text, words):
    path = spf_home / "models" / "broken.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        model_preset("broken")
    assert str(caught.value).startswith(f"{path}: ") and words in str(caught.value)
    assert source.register_model(str(folder)).family == "unet"
