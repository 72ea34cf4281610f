"""A captioning model on this machine, BLIP or Florence-2, as a function from pictures to texts. Nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    Florence2ForConditionalGeneration,
    Florence2Processor,
)

from spf.errors import ModelNotFound

LONGEST = 60  # tokens of a caption
TASK = "<CAPTION>"  # what Florence-2 is asked for
SOURCES = {
    "blip": "https://huggingface.co/Salesforce/blip-image-captioning-base (BSD-3-Clause)",
    "florence2": "https://huggingface.co/florence-community/Florence-2-base (MIT)"}
_PREPROCESSOR = "preprocessor_config.json"
_FILES = ("config.json", "model.safetensors", _PREPROCESSOR)
_SAVED_ANEW = {_PREPROCESSOR: "processor_config.json"}  # what transformers 5 writes instead
_SOURCES = "; ".join(SOURCES.values())


class Captioner:
    """One model in a transformers folder."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        """Raises ModelNotFound naming the file that is missing or damaged, and where a model is to be had."""
        self.kind, self.device = _kind(folder), torch.device(device)
        try:
            self._processor = _processor(folder, self.kind)
            family = BlipForConditionalGeneration if self.kind == "blip" else Florence2ForConditionalGeneration
            model, info = family.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True)
            if info["missing_keys"]:  # transformers would leave them random
                raise ValueError(f"its weights lack '{min(info['missing_keys'])}'")
            self._model = model.eval().to(self.device)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelNotFound(f"--captioner: {folder} cannot be used ({reason}); get it again: {SOURCES[self.kind]}.") from None

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image]) -> list[str]:
        """RGB pictures -> one line of text each, the likeliest words first (greedy)."""
        prompts = {"text": [TASK] * len(pictures)} if self.kind == "florence2" else {}
        inputs = self._processor(images=list(pictures), return_tensors="pt", **prompts).to(self.device)
        tokens = self._model.generate(**inputs, max_new_tokens=LONGEST, num_beams=1, do_sample=False)
        return [" ".join(text.split()) for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]


def _kind(folder: Path) -> str:
    """'blip' or 'florence2', by the folder's own configuration, once every file is there."""
    for name in _FILES:
        if not any((folder / known).is_file() for known in (name, _SAVED_ANEW.get(name, name))):
            raise ModelNotFound(f"--captioner: {folder / name} does not exist; name the folder of a captioning model in "
                                f"safetensors, for example {_SOURCES}.")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        raise ModelNotFound(f"--captioner: {folder / 'config.json'} is damaged; get it again: {_SOURCES}.") from None
    if kind not in SOURCES:
        raise ModelNotFound(f"--captioner: {folder} holds a model of the type '{kind}'; use BLIP or Florence-2: {_SOURCES}.")
    return kind


def _processor(folder: Path, kind: str) -> BlipProcessor | Florence2Processor:
    if kind == "florence2":
        return Florence2Processor.from_pretrained(folder, local_files_only=True)
    return BlipProcessor(BlipImageProcessorPil.from_pretrained(folder, local_files_only=True),
                         AutoTokenizer.from_pretrained(folder, local_files_only=True))
