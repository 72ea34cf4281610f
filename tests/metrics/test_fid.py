import numpy as np
import pytest
import torch
from torch import nn

from spf.metrics import fid
from spf.metrics.base import MetricUnavailable, summarise


def gaussians(rng, size, count=2):
    for _ in range(count):
        a = rng.normal(size=(size, size))
        yield rng.normal(size=size), a @ a.T


def test_distance_of_equal_gaussians_is_zero():
    (mean, cov), = gaussians(np.random.default_rng(0), 6, 1)
    assert fid.frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-9)


def test_moving_the_mean_costs_its_squared_length():
    (mean, cov), = gaussians(np.random.default_rng(1), 5, 1)
    step = np.array([3.0, 0, 4, 0, 0])
    assert fid.frechet_distance(mean, cov, mean + step, cov) == pytest.approx(25)


def test_one_dimension_is_the_squared_difference_of_means_and_deviations():
    one = fid.frechet_distance(np.array([1.0]), np.array([[4.0]]), np.array([3.0]), np.array([[25.0]]))
    assert one == pytest.approx((3 - 1) ** 2 + (5 - 2) ** 2)


def test_commuting_covariances_have_a_closed_form():
    q, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))
    a, b = np.array([1.0, 4, 9, 16]), np.array([4.0, 1, 0, 25])  # one of them singular
    distance = fid.frechet_distance(np.zeros(4), (q * a) @ q.T, np.zeros(4), (q * b) @ q.T)
    assert distance == pytest.approx(np.square(np.sqrt(a) - np.sqrt(b)).sum(), rel=1e-9)


def test_distance_is_symmetric_and_does_not_turn_with_the_axes():
    rng = np.random.default_rng(3)
    (m1, c1), (m2, c2) = gaussians(rng, 7)
    distance = fid.frechet_distance(m1, c1, m2, c2)
    assert distance > 0 and distance == pytest.approx(fid.frechet_distance(m2, c2, m1, c1), rel=1e-10)
    q, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    turned = fid.frechet_distance(q @ m1, q @ c1 @ q.T, q @ m2, q @ c2 @ q.T)
    assert turned == pytest.approx(distance, rel=1e-9)


def test_the_gaussian_of_features_is_mean_and_unbiased_covariance():
    features = np.array([[0.0, 1], [2, 1], [4, 7]])
    mean, cov = fid.gaussian(features)
    np.testing.assert_allclose(mean, [2, 3])
    np.testing.assert_allclose(cov, [[4, 6], [6, 12]])
    assert fid.gaussian(features[:, :1])[1].shape == (1, 1)


def test_kernel_distance_is_the_unbiased_mmd_by_its_definition():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(5, 3)), rng.normal(1, 1, size=(5, 3))

    def k(a, b):
        return (sum(a * b) / 3 + 1) ** 3

    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    expected = sum(k(x[i], x[j]) + k(y[i], y[j]) - 2 * k(x[i], y[j]) for i, j in pairs) / len(pairs)
    assert fid.kernel_distance(x, y) == pytest.approx(expected)
    assert fid.kernel_distance(x, x) == pytest.approx(0, abs=1e-12)


class Halves:
    name = "two numbers per picture"

    def __call__(self, images):
        return images.mean(dim=(2, 3))[:, :2]


def test_pairs_become_rows_and_rows_a_distance(make_pairs):
    pairs = make_pairs(40)
    metric, kid = fid.metrics(Halves(), 2)
    rows = metric.extractor(pairs)
    assert rows.values.shape == (40, 4)
    np.testing.assert_allclose(rows.values[:, 2:], pairs.customized.mean(dim=(2, 3))[:, :2].double().numpy())
    by_hand = fid.frechet_distance(*fid.gaussian(rows.values[:, :2]), *fid.gaussian(rows.values[:, 2:]))
    assert summarise(metric, rows, 10).value == pytest.approx(by_hand) and summarise(kid, rows, 10).value is not None
    same = make_pairs(40, same=True)
    assert summarise(metric, metric.extractor(same), 10).value == pytest.approx(0, abs=1e-12)


def test_fewer_pairs_than_columns_give_no_frechet_distance(make_pairs):
    metric, _ = fid.metrics(Halves(), 2)
    assert summarise(metric, metric.extractor(make_pairs(2)), 10).note == "needs 3 pairs and has 2"


def test_missing_weights_are_named_with_their_source(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(MetricUnavailable, match="pt_inception-2015-12-05-6726825d.pth.*pytorch-fid"):
        fid.Inception(tmp_path)


@pytest.mark.parametrize("name, expected", [
    ("Mixed_5b", lambda x: nn.AvgPool2d(3, 1, 1, count_include_pad=False)(x)),
    ("Mixed_6b", lambda x: nn.AvgPool2d(3, 1, 1, count_include_pad=False)(x)),
    ("Mixed_7b", lambda x: nn.AvgPool2d(3, 1, 1, count_include_pad=False)(x)),
    ("Mixed_7c", lambda x: nn.MaxPool2d(3, 1, 1)(x)),
])
def test_inception_pools_as_tensorflow_does(name, expected):
    network = fid._inception().eval()
    block, seen = getattr(network, name), []
    block.branch_pool.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    x = torch.randn(1, block.branch_pool.conv.in_channels, 5, 5)
    with torch.no_grad():
        block(x)
    torch.testing.assert_close(seen[0], expected(x))


def test_inception_loads_from_a_file_and_gives_2048_columns(tmp_path):
    torch.save(fid._inception().state_dict(), tmp_path / fid.INCEPTION.path)
    features = fid.Inception(tmp_path)(torch.rand(1, 3, 32, 32) * 2 - 1)
    assert features.shape == (1, fid.Inception.width) and features.isfinite().all()


def test_a_file_of_another_network_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / fid.INCEPTION.path)
    with pytest.raises(MetricUnavailable, match="does not fit its network"):
        fid.Inception(tmp_path)
