"""The stages: what each switch changes and what it leaves alone, and where gradient goes."""

import pytest
import torch

from spf.config import MethodConfig
from spf.method import losses as L
from spf.method.losses import total_loss
from spf.training import stages
from spf.training.stages import DualPathStage, FineTuneStage, drop_captions, set_trainable

TERMS = ["diff", "text", "fine", "enhanced"]


both_families = pytest.mark.parametrize("family", ["unet", "mmdit"])


@pytest.fixture
def forward(backbone, response, clip, empty, examples, monkeypatch):
    """forward(key=value): losses and report of one stage-2 step with these options; always the same noise and timesteps."""
    monkeypatch.setattr(backbone.objective.__class__, "sample_timesteps",
                        lambda self, batch, generator=None, device=None: torch.tensor([20, 150, 300, 340])[:batch])

    def make(caption_dropout=0.0, base_only_prob=0.0, snr_gamma=0.0, res=response, **method):
        stage = DualPathStage(backbone, res, clip, MethodConfig(**method), empty, caption_dropout, base_only_prob, snr_gamma)
        return stage.training_forward(examples, torch.Generator().manual_seed(0))

    return make


@both_families
def test_a_reference_in_bf16_moves_the_alignment_a_little_and_nothing_else(backbone, response, clip, empty, examples, family):
    def losses(reference_bf16):
        stage = DualPathStage(backbone, response, clip, MethodConfig(), empty, reference_bf16=reference_bf16)
        return stage.training_forward(examples, torch.Generator().manual_seed(0))[0]

    exact, narrow = losses(False), losses(True)
    assert differing(exact, narrow) == {"text", "fine"}
    for name in ("text", "fine"):
        torch.testing.assert_close(narrow[name], exact[name], rtol=0.02, atol=0)


def test_a_reference_in_bf16_takes_no_gradient_from_a_path_in_bf16(backbone, clip, empty, examples):
    """Autocast remembers what it has cast, and a weight that was cast without gradient would be taken for both paths."""
    response = backbone.fork({name for name, _ in backbone.trainable_parameters("cross")})
    trained = set_trainable(response, "cross")
    stage = DualPathStage(backbone, response, clip, MethodConfig(), empty, reference_bf16=True)
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = stage.training_forward(examples, torch.Generator().manual_seed(0))
    total_loss(losses).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained)


def differing(a: dict, b: dict) -> set[str]:
    return {name for name in a.keys() | b.keys() if name not in a or name not in b or not torch.equal(a[name], b[name])}


@both_families
def test_min_snr_weighs_each_sample_of_the_diffusion_loss_alone(forward, backbone, empty, examples, monkeypatch, family):
    weights = torch.tensor([0.0, 0.0, 3.0, 0.0])
    monkeypatch.setattr(backbone.objective.__class__, "min_snr_weight", lambda self, t, gamma: gamma * weights[: len(t)])
    weighed, plain = forward(snr_gamma=2.0)[0], forward()[0]
    assert differing(weighed, plain) == {"diff"}
    assert forward(snr_gamma=2.0, base_only_prob=1.0)[0]["diff"] == 0
    stage1 = [FineTuneStage(backbone, empty, snr_gamma=gamma) for gamma in (2.0, 4.0)]
    once, twice = (stage.training_forward(examples, torch.Generator().manual_seed(0))[0]["diff"] for stage in stage1)
    torch.testing.assert_close(twice, 2 * once)


def test_stage_1_is_the_diffusion_loss_on_the_full_prompt(backbone, examples, empty):
    losses, report = FineTuneStage(backbone, empty).training_forward(examples, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    t = torch.randint(1000, (4,), generator=generator)
    noise = torch.randn(4, 4, 8, 8, generator=generator)
    abar = backbone.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    x_t = abar.sqrt() * examples.latents + (1 - abar).sqrt() * noise
    prediction = backbone.denoiser(x_t, t, examples.full.embeddings).sample
    torch.testing.assert_close(losses, {"diff": (prediction - noise).square().mean()})
    assert report == {}


@both_families
def test_stage_2_has_four_terms_that_are_all_alive(forward):
    losses, report = forward()
    assert list(losses) == TERMS
    assert all(value.ndim == 0 and value > 0 for value in losses.values())
    assert 0 < report["sfcm_mean"] < 1 and report["sfcm_empty"] == 0


@both_families
@pytest.mark.parametrize("switch, term", [
    ("use_text_loss", "text"), ("use_fine_loss", "fine"), ("use_enhanced_loss", "enhanced")])
def test_a_loss_that_is_off_is_gone_and_the_others_stay(forward, switch, term):
    on, report_on = forward()
    off, report_off = forward(**{switch: False})
    assert list(off) == [name for name in TERMS if name != term]
    assert differing(on, off) == {term} and not differing(report_on, report_off)


@pytest.mark.parametrize("name, term", [("lambda_text", "text"), ("lambda_fine", "fine"), ("lambda_enhanced", "enhanced")])
def test_a_lambda_scales_its_own_term(forward, name, term):
    on, doubled = forward()[0], forward(**{name: 2 * getattr(MethodConfig(), name)})[0]
    assert differing(on, doubled) == {term}
    torch.testing.assert_close(doubled[term], 2 * on[term])


@both_families
def test_without_sfcm_everything_is_aligned(forward, monkeypatch):
    weights = []
    weigh = stages.alignment_weight
    monkeypatch.setattr(stages, "alignment_weight", lambda *args: weights.append(weigh(*args)) or weights[-1])
    with_map, report_with = forward()
    assert min(w.min() for w in weights) < 0.5
    weights.clear()
    without, report_without = forward(use_sfcm=False)
    assert weights and all((w == 1).all() for w in weights)
    assert differing(with_map, without) == {"text", "fine"} and without["fine"] > with_map["fine"]
    assert not differing(report_with, report_without), "the map is still measured, so that runs can be compared"


def test_plain_clip_supervision_is_eq_9(forward, response, clip, examples, monkeypatch):
    images = []
    embed = clip.embed_images
    monkeypatch.setattr(clip, "embed_images", lambda x: images.append(embed(x)) or images[-1])
    bias, plain = forward()[0], forward(clip_supervision="plain")[0]
    assert differing(bias, plain) == {"enhanced"}
    torch.testing.assert_close(plain["enhanced"], 0.6 * L.clip_loss(images[1], examples.target_embedding))


@both_families
def test_include_pad_adds_the_slots_that_are_padding_in_both_prompts(forward, examples, monkeypatch):
    rows = []
    loss = L.text_consistent_loss
    monkeypatch.setattr(stages.L, "text_consistent_loss", lambda a, b, mask, *rest: rows.append(mask) or loss(a, b, mask, *rest))
    words, padded = forward()[0], forward(include_pad=True)[0]
    assert differing(words, padded) == {"text"}
    assert torch.equal(rows[0], examples.base.base_mask)
    added = rows[1] - rows[0]
    assert torch.equal(added, examples.full.pad_mask), "the longer prompt decides"
    assert ((rows[1] == 0) | (rows[1] == 1)).all()


@pytest.mark.parametrize("option, value, argument", [
    ("soft_map_norm", "l2", "norm"), ("phrase_normalization", "none", "normalize"), ("map_layers", "middle", "layers_used"),
    ("phrase_reduce", "max", "reduce")])
def test_options_of_the_map_reach_it(forward, monkeypatch, option, value, argument):
    seen = []
    compute = stages.fine_control_map
    monkeypatch.setattr(stages, "fine_control_map", lambda *a, **k: seen.append(k) or compute(*a, **k))
    forward()
    forward(**{option: value})
    assert {name for name in seen[0] if seen[0][name] != seen[1][name]} == {argument} and seen[1][argument] == value


@both_families
@pytest.mark.parametrize("option, value, changed", [
    ("soft_map_norm", "l2", {"text", "fine"}), ("phrase_normalization", "none", {"text", "fine"}),
    ("phrase_reduce", "max", {"text", "fine"}), ("align_reduction", "mean_mean", {"text", "fine"}),
    ("align_reduction", "l2norm", {"text", "fine"}), ("enhanced_weight", "signal", {"enhanced"}),
    ("enhanced_max_amplification", 0.3, {"enhanced"})])
def test_options_change_the_terms_they_are_about(forward, option, value, changed):
    assert differing(forward()[0], forward(**{option: value})[0]) == changed


def test_mean_over_layers_is_the_sum_divided_by_their_number(forward):
    summed, averaged = forward()[0], forward(align_reduction="mean_mean")[0]
    for term in ("text", "fine"):
        torch.testing.assert_close(averaged[term] * 7, summed[term])


@pytest.mark.parametrize("t, alive", [(353, True), (354, False), (900, False)])
def test_enhancement_counts_only_where_one_step_sees_the_picture(forward, backbone, response, monkeypatch, t, alive):
    """D15: amplification <= 1, which is t <= 353 of this schedule."""
    parameters = set_trainable(response, "cross")
    monkeypatch.setattr(backbone.objective.__class__, "sample_timesteps",
                        lambda self, batch, generator=None, device=None: torch.full((batch,), t))
    enhanced = forward()[0]["enhanced"]
    gradients = torch.autograd.grad(enhanced, parameters, allow_unused=True)
    assert bool(enhanced > 0) == alive
    assert any(g is not None and g.any() for g in gradients) == alive


@both_families
def test_computing_activations_twice_changes_no_loss_and_no_gradient(forward, response):
    parameters = set_trainable(response, "cross")

    def losses_and_gradients():
        losses = forward()[0]
        return losses, torch.autograd.grad(total_loss(losses), parameters, allow_unused=True)

    plain = losses_and_gradients()
    response.enable_gradient_checkpointing()
    assert response.vae.decoder.gradient_checkpointing and response.denoiser.is_gradient_checkpointing
    torch.testing.assert_close(losses_and_gradients(), plain, rtol=0, atol=0)


@both_families
@pytest.mark.parametrize("which", ["cross", "full"])
def test_gradient_reaches_the_response_path_and_nothing_else(forward, backbone, response, clip, which):
    frozen = (backbone.denoiser, backbone.text_encoder, backbone.vae, clip.model)
    before = [value.clone() for module in frozen for value in module.state_dict().values()]
    parameters = set_trainable(response, which)
    total_loss(forward()[0]).backward()
    assert sum(parameter.grad is not None and bool(parameter.grad.any()) for parameter in parameters) > 0.9 * len(parameters)
    for module in frozen:
        assert all(parameter.grad is None for parameter in module.parameters())
    rest = {id(parameter) for parameter in response.denoiser.parameters()} - set(map(id, parameters))
    assert all(parameter.grad is None for parameter in response.denoiser.parameters() if id(parameter) in rest)
    assert all(torch.equal(a, b) for a, b in zip(
        before, [value for module in frozen for value in module.state_dict().values()], strict=True))


@both_families
@pytest.mark.parametrize("term", TERMS)
def test_every_term_moves_the_response_path(forward, response, term):
    parameters = set_trainable(response, "cross")
    gradients = torch.autograd.grad(forward()[0][term], parameters, allow_unused=True)
    assert any(gradient is not None and gradient.any() for gradient in gradients)


@both_families
def test_two_equal_paths_on_the_base_prompt_agree_completely(forward, backbone):
    losses, report = forward(res=backbone.fork(), base_only_prob=1.0)
    assert losses["text"] == 0 and losses["fine"] == 0
    assert losses["diff"] == 0 and losses["enhanced"] == 0, "a picture of the target is no example of the base text (D25)"
    assert report["sfcm_empty"] == 1, "nothing answers a target that was not given"


@both_families
def test_caption_dropout_of_everything_is_the_empty_prompt(backbone, examples, empty):
    seen = []
    predict = backbone.predict
    backbone.predict = lambda x_t, t, text: seen.append(text.embeddings) or predict(x_t, t, text)
    FineTuneStage(backbone, empty, caption_dropout=1.0).training_forward(examples, torch.Generator().manual_seed(0))
    assert torch.equal(seen[0], empty.embeddings.expand(4, -1, -1))


@both_families
def test_dropped_captions_are_dropped_in_both_paths_of_stage_2(forward, backbone, response, empty, monkeypatch):
    seen = []
    for path in (backbone, response):
        monkeypatch.setattr(path, "predict", lambda x_t, t, text, predict=path.predict: (
            seen.append(text.embeddings), predict(x_t, t, text))[1])
    losses, _ = forward(caption_dropout=1.0)
    assert len(seen) == 2 and all(torch.equal(text, empty.embeddings.expand(4, -1, -1)) for text in seen)
    assert losses["diff"] > 0 and losses["enhanced"] == 0, "D24 keeps the diffusion loss; no target was asked for"
    both, _ = forward(caption_dropout=1.0, base_only_prob=1.0)
    assert both["diff"] > 0, "without a text, the target is not missing from it (D25)"


@both_families
def test_nothing_is_exempt_where_the_target_was_not_asked_for(forward):
    asked, whole = forward()[0], forward(use_sfcm=False)[0]
    aligned = forward(base_only_prob=1.0)[0]
    assert asked["fine"] < whole["fine"], "with a target, the SFCM exempts something"
    assert torch.equal(aligned["fine"], forward(base_only_prob=1.0, use_sfcm=False)[0]["fine"])


@both_families
def test_a_share_of_captions_is_dropped_at_random_but_reproducibly(examples, empty):
    def dropped(seed, share):
        kept = drop_captions(examples.full, empty, share, torch.Generator().manual_seed(seed)).embeddings
        return [torch.equal(row, empty.embeddings[0]) for row in kept]

    assert not any(dropped(1, 0.0))
    assert dropped(1, 0.5) == dropped(1, 0.5)
    draws = [flag for seed in range(50) for flag in dropped(seed, 0.25)]
    assert 0.15 < sum(draws) / len(draws) < 0.35


@both_families
def test_set_trainable_is_exact_and_can_be_changed(response, family):
    for which, total in (("full", len(list(response.denoiser.parameters()))), ("cross", {"unet": 35, "mmdit": 46}[family])):
        chosen = set_trainable(response, which)
        learning = [parameter for parameter in response.denoiser.parameters() if parameter.requires_grad]
        assert len(chosen) == len(learning) == total and set(map(id, chosen)) == set(map(id, learning))
