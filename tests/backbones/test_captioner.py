"""Captioning models from their folders: a tiny BLIP with random weights, and folders that are none."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil

from spf.backbones.captioner import Captioner
from spf.errors import ModelNotFound

PICTURES = [Image.new("RGB", (40, 50), colour) for colour in ("red", "white", "navy")]


@pytest.fixture(scope="session")
def blip_folder(tokenizer, tmp_path_factory):
    """Its random weights say something about every picture. Read-only."""
    folder, size = tmp_path_factory.mktemp("blip"), {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
                                                     "num_attention_heads": 2}
    torch.manual_seed(0)
    BlipForConditionalGeneration(BlipConfig(
        text_config={**size, "encoder_hidden_size": 32, "vocab_size": len(tokenizer), "max_position_embeddings": 77,
                     "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
                     "sep_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
                     "initializer_range": 1.0},
        vision_config={**size, "image_size": 32, "patch_size": 8, "initializer_range": 1.0},
        projection_dim=16)).save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_blip_says_something_about_each_picture(blip_folder):
    captioner = Captioner(blip_folder)
    texts = captioner(PICTURES)
    assert captioner.kind == "blip" and len(texts) == 3 and len(set(texts)) > 1, "what is seen decides"
    assert all(text and "\n" not in text and "<|" not in text for text in texts)
    assert captioner(PICTURES[:1])[0] == texts[0] == Captioner(blip_folder)(PICTURES[:1])[0]


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_missing_file_is_named_with_a_source(blip_folder, tmp_path, file):
    folder = shutil.copytree(blip_folder, tmp_path / "mine")
    (folder / file).unlink()
    with pytest.raises(ModelNotFound, match=f"--captioner: .*/{file} does not exist; .*huggingface.co/Salesforce/blip"):
        Captioner(folder)


def test_pickled_weights_are_not_read(blip_folder, tmp_path):
    folder = shutil.copytree(blip_folder, tmp_path / "mine")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="model.safetensors does not exist"):
        Captioner(folder)


def test_damaged_and_foreign_folders_are_refused(blip_folder, model_folder, tmp_path):
    folder = shutil.copytree(blip_folder, tmp_path / "mine")
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    del tensors["text_decoder.bert.embeddings.position_embeddings.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ModelNotFound, match="lack 'text_decoder.bert.embeddings.position_embeddings.weight'"):
        Captioner(folder)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelNotFound, match="cannot be used .*get it again: https"):
        Captioner(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelNotFound, match="of the type 'bert'; use BLIP or Florence-2"):
        Captioner(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelNotFound, match="config.json is damaged"):
        Captioner(folder)
