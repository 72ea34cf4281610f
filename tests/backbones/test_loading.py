"""Models in every published format load exactly; what does not fit is refused in words before any weight is read."""

import copy
import json
import shutil
import socket

import huggingface_hub
import open_clip
import published
import pytest
import torch
from published import preset, write
from transformers import CLIPTextModel

from spf.backbones import loading, source
from spf.backbones.layouts import CLIP_G_PREFIX, CLIP_L_PREFIX
from spf.backbones.loading import load_backbone
from spf.backbones.vocabulary import _byte_pairs, clip_tokenizer
from spf.errors import ModelNotFound
from spf.method.phrases import join_prompt


def same(module, other, dtype=torch.float32) -> bool:
    left, right = module.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name].to(dtype)) for name in left)


def predicted(backbone, dtype=torch.float32):
    x_t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return backbone.predict(x_t, torch.tensor([500]), backbone.encode_prompts([join_prompt("a person", ["a red hat"])]))


# --- single files

@pytest.mark.parametrize("stored, dtype", [(torch.float32, "fp32"), (torch.float16, "fp32"), (torch.float16, "fp16"),
                                           (torch.float32, "bf16")])
def test_a_single_file_is_the_folder_it_was_made_from(sd15, sd15_folder, tmp_path, stored, dtype):
    path = write(tmp_path / "model.safetensors", published.ldm(sd15), stored)
    loaded = load_backbone(preset(path, architecture=str(sd15_folder), dtype=dtype))
    for name, part in (("unet", loaded.denoiser), ("vae", loaded.vae), ("text_encoder", loaded.text_encoder)):
        assert same(part, copy.deepcopy(sd15[name]).to(stored), loading.DTYPES[dtype])
    assert loaded.tokenizer("A red hat, naïve").input_ids == sd15["tokenizer"]("A red hat, naïve").input_ids


def test_a_single_file_without_a_vocabulary_beside_it_reads_clips_own(sd15_file, sd15_folder, tmp_path):
    shutil.copytree(sd15_folder, tmp_path / "architecture", ignore=shutil.ignore_patterns("tokenizer", "*.safetensors"))
    shutil.copytree(sd15_folder, tmp_path / "model")
    clip_tokenizer().save_pretrained(tmp_path / "model" / "tokenizer")
    loaded = load_backbone(preset(sd15_file, architecture=str(tmp_path / "architecture")))
    torch.testing.assert_close(predicted(loaded), predicted(load_backbone(preset(tmp_path / "model"))), atol=1e-5, rtol=1e-4)


def test_clips_vocabulary_is_open_clips():
    ours, theirs = clip_tokenizer(), open_clip.get_tokenizer("ViT-B-32")
    assert len(ours) == 49408
    for text in ("a photo of a cat", "Ünïcödé café", "日本語 🎉 emoji's", "a   b\n c, don't I'll 12%"):
        ids = ours(text).input_ids
        assert ids == theirs([text])[0, :len(ids)].tolist() and ours.pad_token_id == 49407
    padded = clip_tokenizer("!")("a", padding="max_length").input_ids
    assert padded[3:] == [0] * 74


def test_what_sharers_add_to_a_file_is_ignored(sd15, sd15_folder, tmp_path):
    tensors = published.ldm(sd15) | {
        "model_ema.decay": torch.ones(1), "alphas_cumprod": torch.ones(1000), "first_stage_model.loss.logvar": torch.ones(1),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}
    old = {name.replace(".transformer.text_model.", ".transformer."): value for name, value in tensors.items()}
    for index, content in enumerate((tensors, old)):
        loaded = load_backbone(preset(write(tmp_path / f"{index}.safetensors", content), architecture=str(sd15_folder)))
        assert same(loaded.text_encoder, sd15["text_encoder"]) and same(loaded.denoiser, sd15["unet"])


@pytest.mark.parametrize("inside", [True, False])
def test_stable_diffusion_3_in_one_file_with_its_clip_encoders_inside_or_beside(sd35, sd35_folder, tmp_path, inside):
    encoders = published.sd3_encoders(sd35)
    tensors = published.sd3_file(sd35)
    for name, prefix in (("clip_l", CLIP_L_PREFIX), ("clip_g", CLIP_G_PREFIX)):
        if inside:
            tensors |= {prefix + key: value for key, value in encoders[name].items()}
        else:
            write(tmp_path / "text_encoders" / f"{name}.safetensors", encoders[name], torch.float16)
    path = write(tmp_path / "sd3.5.safetensors", tensors)
    loaded = load_backbone(preset(path, "mmdit", architecture=str(sd35_folder)))
    assert same(loaded.denoiser, sd35["transformer"]) and same(loaded.vae, sd35["vae"]) and loaded.text_encoder_3 is None
    expected = predicted(load_backbone(preset(sd35_folder, "mmdit")))
    torch.testing.assert_close(predicted(loaded), expected, atol=1e-5 if inside else 1e-3, rtol=1e-2)


def test_stable_diffusion_3_without_its_text_encoders_says_where_to_put_them(sd35, sd35_folder, tmp_path):
    path = write(tmp_path / "sd3.5.safetensors", published.sd3_file(sd35))
    with pytest.raises(ModelNotFound, match="text_encoders/clip_l.safetensors does not exist; put"):
        load_backbone(preset(path, "mmdit", architecture=str(sd35_folder)))


# --- another autoencoder

def test_the_autoencoder_can_be_swapped(sd15, sd15_folder, sd15_file, tmp_path):
    torch.manual_seed(9)
    other = published.sd15()["vae"]
    with torch.no_grad():
        other.decoder.conv_in.weight.add_(1)
    other.save_pretrained(tmp_path / "vae")
    files = {name[len("first_stage_model."):]: value for name, value in published.ldm({**sd15, "vae": other}).items()
             if name.startswith("first_stage_model.")}
    for vae in (tmp_path / "vae", write(tmp_path / "vae.safetensors", files)):
        for model in (preset(sd15_folder, vae=str(vae)), preset(sd15_file, architecture=str(sd15_folder), vae=str(vae))):
            if vae.is_file():
                model = model.model_copy(update={"architecture": str(sd15_folder)})
            loaded = load_backbone(model)
            assert same(loaded.vae, other) and same(loaded.denoiser, sd15["unet"])
    with pytest.raises(ModelNotFound, match="vae: .*gone does not exist"):
        load_backbone(preset(sd15_folder, vae=str(tmp_path / "gone")))


def test_a_file_without_autoencoder_asks_for_one(sd15, sd15_folder, tmp_path):
    tensors = {name: value for name, value in published.ldm(sd15).items() if not name.startswith("first_stage_model.")}
    path = write(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ModelNotFound, match="holds no autoencoder; name one under 'vae'"):
        load_backbone(preset(path, architecture=str(sd15_folder)))
    assert load_backbone(preset(path, architecture=str(sd15_folder), vae=str(sd15_folder)))


# --- folders

def test_a_variant_is_read_and_an_absent_one_named(sd15, tmp_path):
    half = {name: copy.deepcopy(part).half() if hasattr(part, "state_dict") else part for name, part in sd15.items()}
    folder = published.save_folder(half, tmp_path / "half", variant="fp16")
    assert same(load_backbone(preset(folder, variant="fp16")).denoiser, half["unet"])
    with pytest.raises(ModelNotFound, match="model.safetensors does not exist"):
        load_backbone(preset(folder))
    with pytest.raises(ModelNotFound, match="no variant 'ema'"):
        load_backbone(preset(folder, variant="ema"))


def test_shards_are_read_and_a_missing_one_named(sd15, sd15_folder, tmp_path):
    shutil.copytree(sd15_folder, tmp_path / "sharded")
    shutil.rmtree(tmp_path / "sharded" / "unet")
    sd15["unet"].save_pretrained(tmp_path / "sharded" / "unet", max_shard_size="300KB")
    shards = sorted((tmp_path / "sharded" / "unet").glob("*.safetensors"))
    assert len(shards) > 1 and same(load_backbone(preset(tmp_path / "sharded")).denoiser, sd15["unet"])
    before = source.denoiser_hash(preset(tmp_path / "sharded"))
    shards[1].unlink()
    with pytest.raises(ModelNotFound, match=shards[1].name):
        load_backbone(preset(tmp_path / "sharded"))
    with pytest.raises(ModelNotFound, match=shards[1].name):
        source.denoiser_hash(preset(tmp_path / "sharded"))
    assert before != source.denoiser_hash(preset(sd15_folder))


def test_the_published_autoencoder_with_attention_names_of_2022_loads(sd15, sd15_folder, tmp_path):
    shutil.copytree(sd15_folder, tmp_path / "old")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = sd15["vae"].state_dict()
    for now, then in old.items():
        tensors = {name.replace(f".{now}.", f".{then}.") if ".attentions." in name else name: value
                   for name, value in tensors.items()}
    write(tmp_path / "old" / "vae" / "diffusion_pytorch_model.safetensors", tensors)
    assert same(load_backbone(preset(tmp_path / "old")).vae, sd15["vae"])


@pytest.mark.parametrize("family", ["unet", "mmdit"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_predicts_nearly_the_same_in_float32(sd15_folder, sd35_folder, family, dtype):
    folder = {"unet": sd15_folder, "mmdit": sd35_folder}[family]
    half, full = (load_backbone(preset(folder, family, dtype=name)) for name in (dtype, "fp32"))
    assert half.denoiser.dtype == loading.DTYPES[dtype]
    prediction = predicted(half)
    assert prediction.dtype == torch.float32
    torch.testing.assert_close(prediction, predicted(full), atol=0.1, rtol=0.1)
    decoded = half.decode(torch.ones(1, 4, 8, 8))
    assert decoded.dtype == torch.float32 and half.encode_images(decoded.clamp(-1, 1)).dtype == torch.float32


def edit(folder, part, **values):
    path = folder / part
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("part, values, words", [
    ("unet/config.json", {"in_channels": 9}, "inpainting model with 9 input channels"),
    ("unet/config.json", {"addition_embed_type": "text_time"}, "Stable Diffusion XL"),
    ("unet/config.json", {"_class_name": "UNet3DConditionModel"}, "UNet3DConditionModel model, which is not supported"),
    ("unet/config.json", {"cross_attention_dim": 24}, "is of another size"),
    ("unet/config.json", {"block_out_channels": "many"}, "damaged"),
    ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "predicts 'v_prediction'"),
    ("vae/config.json", {"_class_name": "AsymmetricAutoencoderKL"}, "damaged .*AsymmetricAutoencoderKL"),
    ("text_encoder/config.json", {"hidden_size": 24}, "is of another size"),
])
def test_a_folder_of_another_kind_is_refused(sd15_folder, tmp_path, part, values, words):
    shutil.copytree(sd15_folder, tmp_path / "model")
    edit(tmp_path / "model", part, **values)
    with published.headers_alone(), pytest.raises(ModelNotFound, match=words):
        load_backbone(preset(tmp_path / "model"))


def test_a_folder_of_the_other_family_is_refused(sd15_folder, sd35_folder, sd15_file):
    for path, family in ((sd15_folder, "mmdit"), (sd35_folder, "unet"), (sd15_file, "mmdit")):
        with published.headers_alone(), pytest.raises(ModelNotFound, match="choose the preset of that family"):
            load_backbone(preset(path, family))


@pytest.mark.parametrize("part, file", [
    ("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")])
def test_a_component_that_lacks_a_tensor_is_never_filled_with_noise(sd15, sd15_folder, tmp_path, part, file):
    shutil.copytree(sd15_folder, tmp_path / "model")
    tensors = sd15[part].state_dict()
    gone = list(tensors)[len(tensors) // 2]
    write(tmp_path / "model" / part / f"{file}.safetensors", {name: value for name, value in tensors.items() if name != gone})
    with published.headers_alone(), pytest.raises(ModelNotFound, match=f"lacks tensor '{gone.removeprefix('text_model.')}'"):
        load_backbone(preset(tmp_path / "model"))


def test_weights_that_are_no_numbers_are_refused(sd15, sd15_folder, tmp_path):
    tensors = published.ldm(sd15)
    name = "model.diffusion_model.out.2.bias"
    path = write(tmp_path / "model.safetensors", tensors | {name: torch.full_like(tensors[name], float("nan"))})
    with pytest.raises(ModelNotFound, match="not numbers"):
        load_backbone(preset(path, architecture=str(sd15_folder)))


def test_a_folder_with_pickles_only_is_refused(sd15_folder, tmp_path):
    shutil.copytree(sd15_folder, tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelNotFound, match="only as a pickle"):
        load_backbone(preset(tmp_path / "model"))


def test_an_empty_vocabulary_is_refused(sd15_folder, tmp_path):
    shutil.copytree(sd15_folder, tmp_path / "model")
    edit(tmp_path / "model", "tokenizer/tokenizer.json", model={"type": "BPE", "vocab": {"a": 0}, "merges": []}, added_tokens=[])
    with pytest.raises(ModelNotFound, match="tokenizer .* tokens|damaged"):
        load_backbone(preset(tmp_path / "model"))


# --- the hub's local cache

def test_a_hub_model_is_read_from_the_local_cache_only(sd15_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("connect", "connect_ex"):  # also where the hub cannot be reached, nobody waits for it
        monkeypatch.setattr(socket.socket, name, lambda *args: pytest.fail("the network was asked"))
    with pytest.raises(ModelNotFound, match="is not on this computer; get it with 'python -m spf download someone/portraits'"):
        load_backbone(preset("someone/portraits"))
    cached = tmp_path / "models--someone--portraits"
    shutil.copytree(sd15_folder, cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    assert load_backbone(preset("someone/portraits"))
    (cached / "snapshots" / ("0" * 40) / "vae" / "config.json").unlink()  # a download that was broken off
    with pytest.raises(ModelNotFound, match="vae/config.json does not exist"):
        load_backbone(preset("someone/portraits"))


# --- published details

def test_a_folder_as_stable_diffusion_15_was_published_reads_as_it_did(sd15_folder, tmp_path):
    """CLIP's vocabulary in two files, and the sampler of 2022, whose noise schedule is the one that counts."""
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    vocabulary, merges = _byte_pairs()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]))
    marks = {name: {"content": text, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
             for name, text in (("bos_token", "<|startoftext|>"), ("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>"))}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({
        "add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77,
        "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer",
        **{name: {"__type": "AddedToken", **mark} for name, mark in marks.items()}}))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False,
        "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None}))
    loaded, before = load_backbone(preset(folder)), load_backbone(preset(sd15_folder))
    text = "A photo of Ünï, 12 cats!"
    assert loaded.tokenizer(text, padding="max_length").input_ids == clip_tokenizer()(text, padding="max_length").input_ids
    assert torch.equal(loaded.objective.alphas_cumprod, before.objective.alphas_cumprod)
    assert torch.equal(loaded.sampler(5).timesteps, before.sampler(5).timesteps)


# --- parts of different models

def other_towers(folder):
    shutil.rmtree(folder / "text_encoder_2")
    shutil.copytree(folder / "text_encoder", folder / "text_encoder_2")


def other_encoder(folder):
    CLIPTextModel(published._text_config(24)).save_pretrained(folder / "text_encoder")


def other_latents(folder):
    published._vae(16).save_pretrained(folder / "vae")


@pytest.mark.parametrize("family, change, words", [
    ("unet", other_encoder, "unet takes 16 channels from text_encoder and gets 24; restore"),
    ("mmdit", other_towers, "transformer takes 24 channels from text_encoder and text_encoder_2 and gets 32"),
    ("unet", other_latents, "its latents have 16 channels where .*unet draws 4; name an autoencoder"),
    ("mmdit", other_latents, "its latents have 16 channels where .*transformer draws 4")])
def test_parts_that_are_whole_and_of_different_models_are_refused(sd15_folder, sd35_folder, tmp_path, family, change, words):
    folder = shutil.copytree({"unet": sd15_folder, "mmdit": sd35_folder}[family], tmp_path / "model")
    change(folder)
    with published.headers_alone(), pytest.raises(ModelNotFound, match=words):
        load_backbone(preset(folder, family))


def test_an_autoencoder_of_another_family_cannot_be_swapped_in(sd15, sd15_folder, sd15_file, tmp_path):
    published._vae(16).save_pretrained(tmp_path / "vae")
    for model in (preset(sd15_folder), preset(sd15_file, architecture=str(sd15_folder))):
        with published.headers_alone(), pytest.raises(ModelNotFound, match="vae: .*16 channels where"):
            load_backbone(model.model_copy(update={"vae": str(tmp_path / "vae")}))
    tensors = {name.removeprefix("first_stage_model."): value
               for name, value in published.ldm({**sd15, "vae": published._vae(16)}).items() if name.startswith("first_stage")}
    path = write(tmp_path / "vae.safetensors", tensors)
    with published.headers_alone(), pytest.raises(ModelNotFound, match="autoencoder in .* is of another size"):
        load_backbone(preset(sd15_file, architecture=str(sd15_folder), vae=str(path)))
