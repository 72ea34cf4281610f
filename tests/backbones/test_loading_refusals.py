"""Hostile, damaged and unsuitable single files: one sentence, at once, from the header alone."""

import json
import math
import os
import pickle
import resource
import shutil
import struct
import zipfile

import published
import pytest
import torch
from published import preset, write

from spf.backbones import headers, source
from spf.backbones.loading import load_backbone, require_whole
from spf.backbones.sizes import empty_component
from spf.errors import ModelNotFound


def refusal(path, folder, family="unet") -> str:
    with published.headers_alone(), pytest.raises(ModelNotFound) as caught:
        load_backbone(preset(path, family, architecture=str(folder)))
    message = str(caught.value)
    assert message.startswith("model: ") and str(path) in message and len(message) < 400 and "\n" not in message
    return message


@pytest.mark.parametrize("extra, words", [
    ({"conditioner.embedders.0.transformer.x": (2,)}, "Stable Diffusion XL"),
    ({"model.diffusion_model.label_emb.0.0.weight": (2, 2)}, "Stable Diffusion XL"),
    ({"model.diffusion_model.input_blocks.0.0.weight": (16, 9, 3, 3)}, "inpainting model with 9 input channels"),
    ({"model.diffusion_model.input_blocks.0.0.weight": (16, 8, 3, 3)}, "instruction-editing"),
    ({"cond_stage_model.model.transformer.resblocks.0.ln_1.weight": (2,)}, "Stable Diffusion 2"),
    ({"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (16, 1024)}, "Diffusion 2"),
    ({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (2, 2)}, "FLUX"),
    ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 16)}, "is a LoRA"),
    ({"unet.conv_in.lora_A.weight": (4, 16)}, "is a LoRA"),
    ({"control_model.input_blocks.0.0.weight": (2, 2)}, "ControlNet"),
    ({"model.diffusion_model.out.2.bias": (5,)}, "is of another size: 'conv_out.bias' is (5,) where (4,)"),
])
def test_another_kind_of_model_is_named(sd15, sd15_folder, tmp_path, extra, words):
    tensors = published.ldm(sd15) | {name: torch.zeros(shape) for name, shape in extra.items()}
    assert words in refusal(write(tmp_path / "model.safetensors", tensors), sd15_folder)


@pytest.mark.parametrize("kept, words", [
    ("first_stage_model.", "is an autoencoder"), ("cond_stage_model.", "is a text encoder"), ("nothing", "no model that")])
def test_a_part_of_a_model_is_named(sd15, sd15_folder, tmp_path, kept, words):
    tensors = {name: value for name, value in published.ldm(sd15).items() if name.startswith(kept)}
    assert words in refusal(write(tmp_path / "model.safetensors", tensors or {"x": torch.ones(1)}), sd15_folder)


def test_a_component_of_a_folder_points_to_its_folder(sd15_folder):
    path = sd15_folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert "one component of a diffusers folder; give the folder" in refusal(path, sd15_folder)


def test_eight_bit_weights_are_refused(sd15, sd15_folder, tmp_path):
    tensors = published.ldm(sd15)
    tensors["model.diffusion_model.out.2.weight"] = tensors["model.diffusion_model.out.2.weight"].to(torch.float8_e4m3fn)
    torch_path = tmp_path / "model.safetensors"
    published.save_file({name: value.contiguous() for name, value in tensors.items()}, torch_path)
    assert "stores weights as F8_E4M3" in refusal(torch_path, sd15_folder)


@pytest.mark.parametrize("gone", [
    "model.diffusion_model.middle_block.1.proj_in.weight", "first_stage_model.decoder.conv_out.bias",
    "cond_stage_model.transformer.text_model.final_layer_norm.bias", "model.diffusion_model.output_blocks.2.1.conv.weight"])
def test_an_incomplete_file_is_never_half_loaded(sd15, sd15_folder, tmp_path, gone):
    tensors = published.ldm(sd15)
    del tensors[gone]
    assert "lacks tensor" in refusal(write(tmp_path / "model.safetensors", tensors), sd15_folder)


def test_an_incomplete_transformer_is_refused(sd35, sd35_folder, tmp_path):
    tensors = published.sd3_file(sd35)
    for name, prefix in (("clip_l", source.CLIP_L_PREFIX), ("clip_g", source.CLIP_G_PREFIX)):
        tensors |= {prefix + key: value for key, value in published.sd3_encoders(sd35)[name].items()}
    del tensors["model.diffusion_model.joint_blocks.1.x_block.attn.qkv.bias"]
    assert "is incomplete" in refusal(write(tmp_path / "model.safetensors", tensors), sd35_folder, "mmdit")


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def hostile(good: bytes) -> dict[str, bytes]:
    """Files that claim to be safetensors."""
    length = struct.unpack("<Q", good[:8])[0]
    table, data = json.loads(good[8:8 + length]), good[8 + length:]
    first, second, *_ = (name for name in table if name != "__metadata__")

    def changed(**entry) -> bytes:
        return packed(table | {first: table[first] | entry}, data)

    return {
        "empty": b"", "7 bytes": b"1234567", "zeros": bytes(100), "noise": bytes(range(256)) * 64,
        "pickle 2": pickle.dumps(Attack(), 2), "pickle 5": pickle.dumps(Attack(), 5), "text pickle": pickle.dumps(Attack(), 0),
        "huge header": struct.pack("<Q", 2**63) + good[8:], "header as long as memory": struct.pack("<Q", 1 << 34) + good[8:],
        "header cut": good[:8 + length // 2], "data cut": good[:-1], "data added": good + b"\0",
        "overlap": changed(data_offsets=table[second]["data_offsets"]), "negative": changed(shape=[-1, -2]),
        "huge shape": changed(shape=[1 << 40, 1 << 40]), "wrong dtype": changed(dtype="F64"),
        "unknown dtype": changed(dtype="F1"),
        "float shape": changed(shape=[1.5]), "no shape": packed(table | {first: {}}, data), "list": packed([1, 2], data),
        "not a table": packed(table | {first: 3}, data), "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
        "metadata": packed(table | {"__metadata__": {"a": 1}}, data), "not utf-8": struct.pack("<Q", 4) + b"{\xff\xff}",
        "huge number": packed(table | {first: table[first] | {"shape": [int("9" * 300)]}}, data),
    }


def packed(table, data: bytes) -> bytes:
    raw = json.dumps(table).encode()
    return struct.pack("<Q", len(raw)) + raw + data


@pytest.mark.parametrize("kind", hostile(packed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {
    "dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8))))
def test_a_hostile_file_is_refused_by_its_content(sd15_file, sd15_folder, tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "model.safetensors"
    path.write_bytes(hostile(sd15_file.read_bytes())[kind])
    message = refusal(path, sd15_folder)
    assert ("pickle" in message) == kind.startswith("pickle ")
    assert not (tmp_path / "attacked").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10  # kB


def test_an_archive_is_refused_as_one(sd15_folder, tmp_path):
    path = tmp_path / "model.safetensors"
    with zipfile.ZipFile(path, "w") as archive:  # what torch.save writes
        archive.writestr("archive/data.pkl", pickle.dumps(Attack()))
    assert "a pickle or an archive" in refusal(path, sd15_folder)


def test_a_header_is_not_taken_for_a_pickle_by_its_length(tmp_path):
    """A header of 640 bytes begins with 0x80 0x02, as pickles do."""
    raw = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(640)
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 640) + raw + b"\0")
    assert headers.read_header(path).tensors["a"].shape == (1,)


@pytest.mark.parametrize("kind", ["wrong family", "a component of another size", "an absent component", "only a pickle",
                                  "an absent encoder", "an inpainting file of true size"])
def test_what_does_not_fit_costs_its_headers_alone(sd15, sd35, sd15_folder, sd15_file, tmp_path, kind):
    folder = tmp_path / "model"
    shutil.copytree(sd15_folder, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    asked = preset(folder)
    if kind == "wrong family":
        asked = preset(sd15_file, "mmdit")
    elif kind == "a component of another size":
        write(weights, {name: torch.zeros(*value.shape, 1) for name, value in sd15["unet"].state_dict().items()})
    elif kind == "an absent component":
        (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    elif kind == "only a pickle":
        weights.rename(weights.with_suffix(".bin"))
    elif kind == "an absent encoder":
        asked = preset(write(tmp_path / "sd3.safetensors", published.sd3_file(sd35)), "mmdit")
    else:
        asked = preset(sparse(tmp_path / "inpainting.safetensors", {
            "model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3), "x": (1 << 33,)}))
    with published.headers_alone() as read, pytest.raises(ModelNotFound) as caught:
        load_backbone(asked)
    assert sum(read.values()) < 1 << 20 and len(str(caught.value)) < 400


def sparse(path, shapes):
    """A file with these tensors in fp16 and without data: it takes no space, whatever size it says."""
    table, position = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        table[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    path.write_bytes(packed(table, b""))
    os.truncate(path, path.stat().st_size + position)
    return path


def test_the_check_itself_sees_who_reads_on(sd15_file, sd15_folder):
    with pytest.raises(pytest.fail.Exception, match="before the file was refused"), published.headers_alone():
        load_backbone(preset(sd15_file, architecture=str(sd15_folder)))
    with pytest.raises(AssertionError, match="bytes of .* were read"), published.headers_alone():
        with headers.open(sd15_file) as file:
            file.read()
    assert load_backbone(preset(sd15_file, architecture=str(sd15_folder)))


# --- true size

def _true_size(tmp_path):
    """Stable Diffusion 1.5 as published: every name and shape, in a sparse file without data."""
    parts = {part: empty_component(source.PUBLISHED["unet"] / part) for part in ("unet", "vae", "text_encoder")}
    return published.ldm(parts)


def test_the_architecture_of_stable_diffusion_15_is_the_published_one(tmp_path):
    tensors = _true_size(tmp_path)
    counts = {prefix: sum(name.startswith(prefix) for name in tensors)
              for prefix in ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")}
    assert counts == {"model.diffusion_model.": 686, "first_stage_model.": 248, "cond_stage_model.": 196}
    for name, shape in {
        "model.diffusion_model.time_embed.0.weight": (1280, 320),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "model.diffusion_model.input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "model.diffusion_model.middle_block.1.proj_in.weight": (1280, 1280, 1, 1),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.8.2.conv.weight": (640, 640, 3, 3),
        "model.diffusion_model.output_blocks.11.0.in_layers.2.weight": (320, 640, 3, 3),
        "model.diffusion_model.out.2.weight": (4, 320, 3, 3),
        "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "first_stage_model.decoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
        "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc2.weight": (768, 3072),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
    }.items():
        assert tuple(tensors[name].shape) == shape
    assert sum(value.numel() for name, value in tensors.items() if name.startswith("model.")) == 859_520_964


def test_a_file_of_true_size_is_checked_in_a_moment_without_reading_it(tmp_path):
    path = sparse(tmp_path / "v1-5.safetensors", {name: tuple(value.shape) for name, value in _true_size(tmp_path).items()})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with published.headers_alone() as read:
        require_whole(preset(path), source.require_model(preset(path)))
    assert list(read) == [path] and read[path] < 1 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10


def _true_size_35() -> dict[str, tuple[int, ...]]:
    """Stable Diffusion 3.5 medium as published: every name and shape of the single file."""
    parts = {part: empty_component(source.PUBLISHED["mmdit"] / part) for part in ("transformer", "vae")}
    return {name: tuple(value.shape) for name, value in published.sd3_file(parts).items()}


def test_the_architecture_of_stable_diffusion_35_medium_is_the_published_one():
    """Names and shapes as the reference code of the model has them (MMDiT-X: attention of the image alone in the first 13)."""
    shapes = {name.removeprefix("model.diffusion_model."): shape for name, shape in _true_size_35().items()}
    block = "joint_blocks.{}.x_block.{}"
    for name, shape in {
        "pos_embed": (1, 384 * 384, 1536), "x_embedder.proj.weight": (1536, 16, 2, 2), "context_embedder.weight": (1536, 4096),
        "t_embedder.mlp.0.weight": (1536, 256), "y_embedder.mlp.0.weight": (1536, 2048),
        block.format(0, "attn.qkv.weight"): (4608, 1536), block.format(0, "attn.ln_q.weight"): (64,),
        block.format(0, "attn2.qkv.weight"): (4608, 1536), block.format(12, "attn2.proj.weight"): (1536, 1536),
        block.format(0, "adaLN_modulation.1.weight"): (9 * 1536, 1536),
        block.format(13, "adaLN_modulation.1.weight"): (6 * 1536, 1536), block.format(23, "mlp.fc1.weight"): (6144, 1536),
        "joint_blocks.22.context_block.adaLN_modulation.1.weight": (6 * 1536, 1536),
        "joint_blocks.23.context_block.adaLN_modulation.1.weight": (2 * 1536, 1536),
        "joint_blocks.23.context_block.attn.qkv.weight": (4608, 1536),
        "final_layer.linear.weight": (64, 1536), "final_layer.adaLN_modulation.1.weight": (3072, 1536),
        "first_stage_model.encoder.conv_out.weight": (32, 512, 3, 3),
        "first_stage_model.decoder.conv_in.weight": (512, 16, 3, 3),
        "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
    }.items():
        assert shapes[name] == shape, name
    absent = (block.format(13, "attn2.qkv.weight"), "joint_blocks.23.context_block.attn.proj.weight",
              "joint_blocks.23.context_block.mlp.fc1.weight", "first_stage_model.quant_conv.weight")
    assert not set(absent) & set(shapes)


@pytest.mark.parametrize("beside", [False, True])
def test_stable_diffusion_35_of_true_size_is_checked_in_a_moment_without_reading_it(tmp_path, beside):
    path = sparse(tmp_path / "sd3.5_medium.safetensors", _true_size_35())
    assert path.stat().st_size == pytest.approx(5.1e9, rel=0.05), "as it is published in 16 bits"
    asked = preset(path, "mmdit")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if not beside:
        with published.headers_alone(), pytest.raises(ModelNotFound, match="no text encoders .* put clip_l.safetensors and"):
            require_whole(asked, source.require_model(asked))
        return
    for part, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        tower = empty_component(source.PUBLISHED["mmdit"] / part).state_dict()
        sparse(tmp_path / f"{name}.safetensors", {key: tuple(value.shape) for key, value in tower.items()})
    with published.headers_alone() as read:
        require_whole(asked, source.require_model(asked))
    assert len(read) == 3 and sum(read.values()) < 1 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10
