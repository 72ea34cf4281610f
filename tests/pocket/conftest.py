"""An embedded preset so small that it is trained from nothing in a second."""

import numpy as np
import pytest

from spf.config import PretrainConfig, parse
from spf.pocket import curve, pictures, pretrain

OPTIMISATION = {"samples": 4, "batch_size": 4, "learning_rate": 1e-3, "warmup_samples": 0}


@pytest.fixture
def rendered_here(monkeypatch):
    """Without the pool of processes and the thousands of captions, which would be most of the time."""

    def render(portraits, path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.stack([pictures._Draw(size)(portrait) for portrait in portraits]))

    monkeypatch.setattr(pictures, "_render_all", render)
    monkeypatch.setattr(curve, "CAPTIONS", 2)
    monkeypatch.setattr(curve, "PICTURES", 4)
    corpus = pretrain.tokenizer.caption_corpus
    monkeypatch.setattr(pretrain.tokenizer, "caption_corpus", lambda seed, count: corpus(seed, 100))


@pytest.fixture(scope="module")
def config() -> PretrainConfig:
    return parse(PretrainConfig, {
        "pictures": 64, "target_share": 0.3, "resolution": 64, "vocabulary": 600,
        "autoencoder": {**OPTIMISATION, "architecture": {
            "encoder_block_out_channels": [8, 8, 8], "decoder_block_out_channels": [8, 8, 8], "num_encoder_blocks": [0, 1, 1],
            "num_decoder_blocks": [1, 1, 1], "latent_channels": 4}},
        "clip": {**OPTIMISATION, "architecture": {
            "embed_dim": 16, "quick_gelu": False,
            "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 4, "head_width": 16},
            "text_cfg": {"context_length": 77, "vocab_size": 600, "width": 32, "heads": 2, "layers": 1}}},
        "denoiser": {**OPTIMISATION, "architecture": {
            "sample_size": 16, "in_channels": 4, "out_channels": 4, "block_out_channels": [32, 32], "attention_head_dim": 2,
            "layers_per_block": 1, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "cross_attention_dim": 32, "norm_num_groups": 8}}})
