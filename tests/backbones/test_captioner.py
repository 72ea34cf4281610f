"""Captioning models from their folders: a tiny BLIP and a tiny Florence-2 with random weights, and folders that are none."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
)

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


@pytest.fixture(scope="session")
def florence2_folder(tmp_path_factory):
    """Its tokens are single letters. Read-only."""
    folder = tmp_path_factory.mktemp("florence2")
    letters = ["<s>", "<pad>", "</s>", "<unk>", *map(chr, range(33, 127)), "\u0120"]
    words = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, [], unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"})
    torch.manual_seed(0)
    Florence2ForConditionalGeneration(Florence2Config(
        text_config={"model_type": "bart", "vocab_size": len(tokenizer), "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
                     "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
                     "init_std": 1.0, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
        vision_config={"depths": [1] * 4, "embed_dim": [8, 8, 8, 16], "num_heads": [1] * 4, "num_groups": [1] * 4,
                       "window_size": 4, "projection_dim": 32, "initializer_range": 1.0},
        image_token_id=tokenizer.image_token_id)).save_pretrained(folder)
    Florence2Processor(CLIPImageProcessor(  # 2 x 2 cells and their mean
        size={"height": 64, "width": 64}, do_center_crop=False, image_seq_length=5), tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["blip", "florence2"])
def test_it_says_something_about_each_picture(request, kind):
    folder = request.getfixturevalue(f"{kind}_folder")
    captioner = Captioner(folder)
    texts = captioner(PICTURES)
    assert captioner.kind == kind and len(texts) == 3 and len(set(texts)) > 1, "what is seen decides"
    assert all(text and "\n" not in text and "<s>" not in text and "<|" not in text for text in texts)
    assert captioner(PICTURES[:1])[0] == texts[0] == Captioner(folder)(PICTURES[:1])[0]


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_missing_file_is_named_with_a_source(blip_folder, tmp_path, file):
    folder = shutil.copytree(blip_folder, tmp_path / "mine")
    (folder / file).unlink(missing_ok=True)
    if file == "preprocessor_config.json":
        (folder / "processor_config.json").unlink(missing_ok=True)  # the name that transformers 5 gives it
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
