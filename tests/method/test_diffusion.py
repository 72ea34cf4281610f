import math

import pytest
import torch

from spf.method.diffusion import EpsilonObjective, FlowObjective, diffusion_loss


def scaled_linear(steps=1000):
    """The schedule of SD 1.5."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


OBJECTIVES = {"epsilon": EpsilonObjective(scaled_linear()), "flow": FlowObjective()}


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    return OBJECTIVES[request.param]


def test_epsilon_by_hand():
    objective = EpsilonObjective(torch.tensor([0.64, 0.25]))
    x_0, noise, t = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[5.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 1])
    half = math.sqrt(0.75)
    x_t = objective.add_noise(x_0, noise, t)
    torch.testing.assert_close(x_t, torch.tensor([[0.8 * 1 + 0.6 * 5, 1.6], [0.5, 0.5 * 2 + half * 4]]))
    assert objective.target(x_0, noise, t) is noise
    # a wrong prediction of zeros leaves x_t / sqrt(alpha-bar)
    torch.testing.assert_close(objective.predict_x0(x_t, torch.zeros(2, 2), t), x_t / torch.tensor([[0.8], [0.5]]))
    torch.testing.assert_close(objective.error_amplification(t), torch.tensor([0.75, math.sqrt(3)]))
    torch.testing.assert_close(objective.signal_level(t), torch.tensor([0.64, 0.25]))


def test_flow_by_hand():
    objective = FlowObjective()
    x_0, noise, t = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, -2.0]]), torch.tensor([250.0])
    x_t = objective.add_noise(x_0, noise, t)
    torch.testing.assert_close(x_t, torch.tensor([[0.75 * 1 + 0.25 * 5, 0.75 * 2 - 0.25 * 2]]))
    torch.testing.assert_close(objective.target(x_0, noise, t), torch.tensor([[4.0, -4.0]]))
    torch.testing.assert_close(objective.predict_x0(x_t, torch.tensor([[4.0, 0.0]]), t), torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(objective.error_amplification(t), torch.tensor([1 / 3]))
    torch.testing.assert_close(objective.signal_level(t), torch.tensor([0.75**2 / (0.75**2 + 0.25**2)]))


def test_x0_is_recovered_from_its_own_noise(objective):
    generator = torch.Generator().manual_seed(0)
    t = objective.sample_timesteps(64, generator)
    x_0, noise = (torch.randn(64, 4, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    x_t = objective.add_noise(x_0, noise, t)
    assert (x_t - x_0).abs().max() > 0.1
    recovered = objective.predict_x0(x_t, objective.target(x_0, noise, t), t)
    torch.testing.assert_close(recovered, x_0, rtol=1e-6, atol=1e-6)


def test_an_error_in_the_noise_is_amplified_by_what_the_gate_says():
    objective, t = OBJECTIVES["epsilon"], torch.tensor([10, 353, 900])
    x_0, noise = torch.zeros(3, 1, 1, 1, dtype=torch.float64), torch.ones(3, 1, 1, 1, dtype=torch.float64)
    x_t = objective.add_noise(x_0, noise, t)
    error = objective.predict_x0(x_t, noise + 0.01, t).abs().flatten() / 0.01
    torch.testing.assert_close(error, objective.error_amplification(t))


def test_the_gate_of_d15_falls_where_the_reference_says():
    amplification = OBJECTIVES["epsilon"].error_amplification(torch.arange(1000))
    assert (amplification <= 1).nonzero().max() == 353
    assert (amplification <= 2).nonzero().max() == 562
    sigma = torch.tensor([0.499, 0.501]) * 1000
    assert (OBJECTIVES["flow"].error_amplification(sigma) <= 1).tolist() == [True, False]


def test_amplification_and_signal_level_say_the_same(objective):
    t = objective.sample_timesteps(100, torch.Generator().manual_seed(1))
    level = objective.signal_level(t)
    assert ((level >= 0) & (level <= 1)).all()
    torch.testing.assert_close(objective.error_amplification(t), ((1 - level) / level).sqrt(), rtol=1e-3, atol=1e-6)


def test_x0_error_is_by_how_much_an_error_of_the_prediction_grows(objective):
    t = objective.sample_timesteps(50, torch.Generator().manual_seed(3))
    x_t, prediction = torch.randn(50, 1, dtype=torch.float64), torch.randn(50, 1, dtype=torch.float64)
    grown = objective.predict_x0(x_t, prediction, t) - objective.predict_x0(x_t, prediction + 0.01, t)
    torch.testing.assert_close(objective.x0_error(t).to(grown), grown.flatten() / 0.01, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("snr_gamma", [0.2, 5.0])
def test_min_snr_counts_every_timestep_as_the_bounded_error_of_x0(objective, snr_gamma):
    t = objective.sample_timesteps(200, torch.Generator().manual_seed(3))
    level = objective.signal_level(t).double()
    snr = level / (1 - level)
    expected = torch.minimum(snr, torch.tensor(snr_gamma)) * objective.x0_error(t).double().square()
    assert (snr < snr_gamma).any() and (snr > snr_gamma).any()
    torch.testing.assert_close(objective.min_snr_weight(t, snr_gamma).double(), expected, rtol=1e-3, atol=1e-6)


def test_min_snr_by_hand():
    epsilon = EpsilonObjective(torch.tensor([0.9, 0.5]))  # SNR 9 and 1
    torch.testing.assert_close(epsilon.min_snr_weight(torch.tensor([0, 1]), 5.0), torch.tensor([5 / 9, 1.0]))
    sigma = torch.tensor([100.0, 500.0])  # SNR 81 and 1; an error of v is sigma times as large an error of x_0
    torch.testing.assert_close(FlowObjective().min_snr_weight(sigma, 5.0), torch.tensor([5 * 0.01, 0.25]))


def test_epsilon_timesteps_are_uniform_integers_and_seeded():
    objective = EpsilonObjective(scaled_linear(10))
    draw = [objective.sample_timesteps(5000, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert draw[0].dtype == torch.long
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    counts = torch.bincount(draw[0], minlength=10)
    assert len(counts) == 10
    assert counts.min() > 400


def test_flow_timesteps_are_shifted_logit_normal():
    plain = FlowObjective(shift=1.0).sample_timesteps(20000, torch.Generator().manual_seed(0)) / 1000
    shifted = FlowObjective(shift=3.0).sample_timesteps(20000, torch.Generator().manual_seed(0)) / 1000
    logit = torch.logit(plain)
    assert abs(logit.mean()) < 0.03
    assert abs(logit.std() - 1) < 0.03
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain))
    noisier = FlowObjective(shift=1.0, logit_mean=1.0).sample_timesteps(20000, torch.Generator().manual_seed(0)) / 1000
    assert noisier.mean() > plain.mean() + 0.1


@pytest.mark.parametrize("shift, mean, std", [(1.0, 0.0, 1.0), (3.0, 0.5, 0.7)])
def test_flow_timesteps_by_the_formula(shift, mean, std):
    found = FlowObjective(shift, mean, std).sample_timesteps(50, torch.Generator().manual_seed(0))
    for t, u in zip(found.tolist(), torch.randn(50, generator=torch.Generator().manual_seed(0)).tolist(), strict=True):
        sigma = 1 / (1 + math.exp(-(mean + std * u)))
        assert t == pytest.approx(1000 * shift * sigma / (1 + (shift - 1) * sigma), rel=1e-5)
    assert FlowObjective() == FlowObjective(shift=3.0, logit_mean=0.0, logit_std=1.0, time_scale=1000.0)


def test_a_timestep_between_two_indices_is_interpolated_in_its_noise_to_signal_ratio():
    """What an Euler sampler of diffusers asks a U-Net for; the last index included."""
    alphas = [0.9, 0.5, 0.1]
    objective = EpsilonObjective(torch.tensor(alphas, dtype=torch.float64))
    ratio = [math.sqrt((1 - alpha) / alpha) for alpha in alphas]
    for t, expected in ((0.0, ratio[0]), (0.25, 0.75 * ratio[0] + 0.25 * ratio[1]), (1.0, ratio[1]),
                        (1.5, (ratio[1] + ratio[2]) / 2), (2.0, ratio[2])):
        a, b = objective.coefficients(torch.tensor([t], dtype=torch.float64))
        assert (b / a).item() == pytest.approx(expected)
        assert (a * a + b * b).item() == pytest.approx(1)
    index = torch.arange(3)
    for mine, theirs in zip(objective.coefficients(index.float()), objective.coefficients(index), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0)


def test_interpolated_timesteps_agree_with_the_schedule_of_diffusers():
    scheduler = pytest.importorskip("diffusers").EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="linspace")
    scheduler.set_timesteps(7)
    assert any(t != t.round() for t in scheduler.timesteps)
    objective = EpsilonObjective(scheduler.alphas_cumprod)
    torch.testing.assert_close(objective.error_amplification(scheduler.timesteps), scheduler.sigmas[:-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("generator", [None, 0])
def test_timesteps_are_drawn_where_the_generator_is_and_arrive_where_asked(objective, generator):
    generator = None if generator is None else torch.Generator().manual_seed(generator)
    assert objective.sample_timesteps(3, generator, "meta").device.type == "meta"
    assert objective.sample_timesteps(3, generator).device.type == "cpu"


def test_coefficients_of_half_precision_are_wide():
    schedule = torch.tensor([0.9, 0.5], dtype=torch.float16)
    assert {c.dtype for c in EpsilonObjective(schedule).coefficients(torch.tensor([0, 1]))} == {torch.float32}
    assert {c.dtype for c in FlowObjective().coefficients(torch.tensor([250.0], dtype=torch.bfloat16))} == {torch.float32}


def test_flow_timesteps_agree_with_the_schedule_of_diffusers():
    scheduler = pytest.importorskip("diffusers").FlowMatchEulerDiscreteScheduler(shift=3.0)
    a, sigma = FlowObjective(shift=3.0).coefficients(scheduler.timesteps)
    torch.testing.assert_close(sigma, scheduler.sigmas)
    torch.testing.assert_close(a, 1 - scheduler.sigmas)


def test_dtypes(objective):
    x_0, noise = torch.randn(2, 4, 2, 2, dtype=torch.bfloat16), torch.randn(2, 4, 2, 2, dtype=torch.bfloat16)
    t = objective.sample_timesteps(2)
    x_t = objective.add_noise(x_0, noise, t)
    assert x_t.dtype == torch.bfloat16
    assert objective.predict_x0(x_t, noise, t).dtype in (torch.float32, torch.float64)
    assert diffusion_loss(x_t, noise).dtype == torch.float32


def test_diffusion_loss_by_hand():
    prediction, target = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert diffusion_loss(prediction, target) == (0 + 4 + 9 + 16) / 4
    assert diffusion_loss(prediction, target, torch.tensor([1.0, 0.0])) == ((0 + 4) / 2) / 2
    ones = torch.ones(2)
    torch.testing.assert_close(diffusion_loss(prediction, target, ones), diffusion_loss(prediction, target))


def test_diffusion_loss_does_not_lose_small_errors_in_half_precision():
    prediction, target = torch.full((1, 4), 1e-4, dtype=torch.float16), torch.zeros(1, 4, dtype=torch.float16)
    torch.testing.assert_close(diffusion_loss(prediction, target), torch.tensor(1e-8), rtol=1e-2, atol=0)


def test_what_is_refused():
    with pytest.raises(ValueError, match="zero terminal SNR"):
        EpsilonObjective(torch.tensor([0.9, 0.0]))
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        EpsilonObjective(torch.tensor([1.5, 0.9]))
    EpsilonObjective(torch.tensor([1.0, 0.9]))  # a first step without noise
    with pytest.raises(ValueError, match="float tensor"):
        EpsilonObjective(torch.tensor([[0.9]]))
    with pytest.raises(ValueError, match="shift must be positive"):
        FlowObjective(shift=0)
    with pytest.raises(ValueError, match="differ in shape"):
        diffusion_loss(torch.zeros(2, 1), torch.zeros(2, 3))


def test_the_schedule_moves():
    objective = OBJECTIVES["epsilon"]
    moved = objective.to("cpu")
    assert isinstance(moved, EpsilonObjective)
    assert torch.equal(moved.alphas_cumprod, objective.alphas_cumprod)
    a, _ = objective.coefficients(torch.zeros(2, dtype=torch.long, device="meta"))  # follows t if it was not moved
    assert a.device.type == "meta"
