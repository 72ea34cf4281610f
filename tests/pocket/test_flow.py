"""The embedded MM-DiT from nothing to a folder that plain diffusers loads, on networks so small that they learn little."""

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import T5Tokenizer

from spf.config import FlowPretrainConfig, parse
from spf.errors import InvalidInput, TrainingError
from spf.pocket import autoencoder, contrast, flow
from spf.pocket.component import multiplies_bf16
from spf.pocket.flow_pretrain import FlowPretraining
from spf.pocket.pretrain import Pretraining

CPU = torch.device("cpu")
OPTIMISATION = {"samples": 4, "batch_size": 4, "learning_rate": 1e-3, "warmup_samples": 0}
TEXTS = ["a portrait of a person, with red hair", "a person, wearing glasses, on a striped blue background"]
pytestmark = pytest.mark.usefixtures("rendered_here")


@pytest.fixture(scope="module")
def flow_config() -> FlowPretrainConfig:
    return parse(FlowPretrainConfig, {
        "family": "mmdit", "base": "pocket",
        "text_encoder_2": {**OPTIMISATION, "architecture": {
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 16}},
        "text_encoder_3": {"vocabulary": 300, "length": 24, "architecture": {
            "d_model": 48, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 1}},
        "denoiser": {**OPTIMISATION, "samples": 400, "batch_size": 8, "architecture": {
            "sample_size": 16, "patch_size": 1, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 8,
            "num_attention_heads": 2, "joint_attention_dim": 48, "caption_projection_dim": 16, "pooled_projection_dim": 32,
            "pos_embed_max_size": 16, "dual_attention_layers": [0], "qk_norm": "rms_norm"}}})


@pytest.fixture
def base(config, tmp_path) -> Pretraining:
    training = Pretraining(config, tmp_path / "base", CPU, minutes=60)
    training.run(("autoencoder", "clip"))
    return training


def test_from_nothing_to_a_folder_that_plain_diffusers_loads(flow_config, base, tmp_path):
    training = FlowPretraining(flow_config, base, tmp_path / "work", CPU, minutes=60)
    assert not training.complete and training.run() and training.complete
    training.export(tmp_path / "model")
    pipeline = StableDiffusion3Pipeline.from_pretrained(tmp_path / "model", local_files_only=True, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(TEXTS[0], num_inference_steps=2, height=64, width=64, max_sequence_length=24, output_type="np").images
    assert images.shape == (1, 64, 64, 3)

    # what training conditions on is what the pipeline conditions on
    clip, pooled = flow.embed(training.towers(), base.tokenizer, TEXTS)
    theirs, _, their_pooled, _ = pipeline.encode_prompt(
        TEXTS, None, None, do_classifier_free_guidance=False, max_sequence_length=24)
    torch.testing.assert_close(theirs[:, :77, :clip.shape[-1]], clip, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(their_pooled, pooled, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("qk_norm", ["rms_norm", None])
def test_attention_written_out_is_that_of_diffusers(flow_config, qk_norm):
    torch.manual_seed(0)
    architecture = {**flow_config.denoiser.architecture, "qk_norm": qk_norm}
    ours = flow.build(flow_config.denoiser.model_copy(update={"architecture": architecture}), flow_config.text_encoder_3, 300)
    for parameter in ours.transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs = SD3Transformer2DModel(**architecture)
    theirs.load_state_dict(ours.transformer.state_dict())
    inputs = (torch.randn(2, 4, 16, 16), torch.randn(2, 9, 48), torch.randn(2, 32), torch.tensor([10.0, 900.0]))
    torch.testing.assert_close(ours.transformer(*inputs).sample, theirs(*inputs).sample, rtol=1e-4, atol=1e-4)


def test_the_loss_falls(flow_config, base, tmp_path):
    training = FlowPretraining(flow_config, base, tmp_path / "work", CPU, minutes=60)
    training.run(("text_encoder_2",))
    drawn = base.pictures().without_targets()
    latents = autoencoder.encode_all(base.autoencoder(), drawn.pixels, CPU)
    torch.manual_seed(0)
    network = flow.build(flow_config.denoiser, flow_config.text_encoder_3, len(training.tokenizer_3))
    component = flow.component(network, training.towers(), base.tokenizer, training.tokenizer_3, latents, drawn.portraits,
                               flow_config.denoiser, CPU)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    values = []
    for step in range(40):
        loss, _ = component.loss(step, torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(float(loss.detach()))
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


def test_an_untrained_network_predicts_nothing(flow_config):
    network = flow.build(flow_config.denoiser, flow_config.text_encoder_3, 300)
    velocity = network(torch.randn(2, 4, 16, 16), torch.tensor([1.0, 900.0]), torch.randn(2, 77, 32), torch.randn(2, 32),
                       torch.randn(2, 24, 48))
    assert not velocity.any()


def test_the_base_preset_comes_first(flow_config, config, tmp_path):
    base = Pretraining(config, tmp_path / "base", CPU, minutes=60)
    with pytest.raises(InvalidInput, match="pretrain pocket"):
        FlowPretraining(flow_config, base, tmp_path / "work", CPU, minutes=60)


def test_an_exported_model_is_gone_on_with_on_the_autoencoder_that_it_knows(flow_config, config, base, tmp_path, monkeypatch):
    monkeypatch.setattr(FlowPretraining, "scores", lambda self, part: {})
    short = flow_config.model_copy(update={"denoiser": flow_config.denoiser.model_copy(update={"samples": 8})})
    first = FlowPretraining(short, base, tmp_path / "work", CPU, minutes=60)
    first.run()
    first.export(tmp_path / "model")
    again = FlowPretraining(short, base, tmp_path / "other", CPU, minutes=60)
    assert again.adopt(tmp_path / "model") and again.complete and not again.adopt(tmp_path / "model")
    for name, value in first.denoiser().state_dict().items():
        torch.testing.assert_close(again.denoiser().state_dict()[name], value, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(flow.embed(again.towers(), base.tokenizer, TEXTS)[0],
                               flow.embed(first.towers(), base.tokenizer, TEXTS)[0], rtol=1e-2, atol=1e-2)

    another = Pretraining(config.model_copy(update={"seed": 1}), tmp_path / "another", CPU, minutes=60)
    another.run(("autoencoder", "clip"))
    stranger = FlowPretraining(short, another, tmp_path / "third", CPU, minutes=60)
    with pytest.raises(TrainingError, match="trained on another autoencoder than 'pocket' has now"):
        stranger.adopt(tmp_path / "model")
    assert not stranger.complete


def test_the_first_tower_is_clip_s_own(config, base):
    tower = flow.first_tower(base.clip(), base.tokenizer)
    tokens = base.tokenizer(TEXTS, padding=True, return_tensors="pt")
    mine = torch.nn.functional.normalize(tower(**tokens).text_embeds, dim=-1)
    torch.testing.assert_close(mine, contrast.encode_text(base.clip(), base.tokenizer, TEXTS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", [*TEXTS, "Quilted, velvet-lined 1920s coat!", ""])
def test_t5_tokens_spell_any_english_text(tmp_path, text):
    corpus = [f"{a}, {b}" for a in TEXTS for b in TEXTS]
    made = flow.train_t5_tokenizer(corpus, 300, 48)
    made.save_pretrained(tmp_path)
    loaded = T5Tokenizer.from_pretrained(tmp_path)
    ids = loaded(text, padding="max_length", truncation=True).input_ids
    assert ids == made(text, padding="max_length", truncation=True).input_ids and len(ids) == 48
    assert loaded.unk_token_id not in ids and loaded.decode(ids, skip_special_tokens=True) == text


def test_frequent_words_are_one_t5_token():
    made = flow.train_t5_tokenizer(TEXTS, 300, 48)
    assert made.convert_ids_to_tokens(made("a person, with red hair").input_ids) == [
        "\u2581a", "\u2581person", ",", "\u2581with", "\u2581red", "\u2581hair", "</s>"]


def test_bf16_is_used_only_where_it_is_fast(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert not multiplies_bf16(CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert multiplies_bf16(CPU) and multiplies_bf16(torch.device("cuda")) and not multiplies_bf16(torch.device("mps"))

