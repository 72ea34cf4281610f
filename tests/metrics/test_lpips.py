import pytest
import torch
from torch import nn
from torchvision.models import alexnet

from spf.backbones.capture import capture
from spf.metrics import lpips
from spf.metrics.base import MetricUnavailable, summarise


class NetworkLayers:
    """Chosen layers of any frozen picture network, as LPIPS compares them."""

    def __init__(self, name, network, sites, prepare):
        """`prepare` turns pictures in [-1, 1] into the network's input."""
        self.name, self.network, self.sites, self.prepare = name, network, tuple(sites), prepare

    def __call__(self, images):
        with capture(self.network, self.sites) as outputs:
            self.network(self.prepare(images))
        return [outputs[site] for site in self.sites]


def test_distance_by_hand_on_one_position():
    a, b = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    distance = lpips.perceptual_distance([a], [b], [torch.tensor([2.0, 10.0])])
    assert float(distance) == pytest.approx(2 * (0.6 - 1) ** 2 + 10 * 0.8**2, rel=1e-5)  # units (.6, .8) and (1, 0)


def test_layers_add_up_and_positions_are_averaged():
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    w = torch.rand(3)
    one = lpips.perceptual_distance([a], [b], [w])
    torch.testing.assert_close(lpips.perceptual_distance([a, a], [b, b], [w, w]), 2 * one)
    doubled = [torch.cat([x, x], dim=3) for x in (a, b)]
    torch.testing.assert_close(lpips.perceptual_distance([doubled[0]], [doubled[1]], [w]), one)


def test_brightness_of_features_does_not_count_and_equal_features_are_at_zero():
    torch.manual_seed(1)
    a = torch.rand(2, 5, 3, 3) + 0.1
    assert lpips.perceptual_distance([a], [7 * a], [torch.ones(5)]).max() < 1e-10
    assert lpips.perceptual_distance([torch.zeros(1, 2, 1, 1)] * 1, [torch.zeros(1, 2, 1, 1)], [torch.ones(2)]) == 0


def test_unlearnt_distance_is_twice_one_minus_cosine():
    torch.manual_seed(2)
    a, b = torch.randn(1, 6, 1, 1), torch.randn(1, 6, 1, 1)
    distance = lpips.perceptual_distance([a], [b], [torch.ones(6)])
    assert float(distance) == pytest.approx(2 - 2 * float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)), rel=1e-5)


@pytest.fixture
def layers():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()).requires_grad_(False)
    return NetworkLayers("small", network, ("1", "3"), lambda images: lpips.resized(images, (12, 12)))


def test_the_metric_over_pairs(make_pairs, layers):
    metric = lpips.metric(lpips.Lpips(layers))
    assert summarise(metric, metric.extractor(make_pairs(6, same=True)), 10).value == 0
    rows = metric.extractor(make_pairs(6))
    assert rows.values.shape == (6, 1) and (rows.values > 0).all()


def weights_of(folder):
    torch.manual_seed(4)
    with torch.device("meta"):
        network = alexnet(weights=None).features
    network.to_empty(device="cpu").requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.05)
    torch.save({f"features.{name}": value for name, value in network.state_dict().items()}, folder / lpips.ALEXNET.path)
    (folder / "lpips").mkdir()
    channels = (64, 192, 384, 256, 256)
    linear = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(channels)}
    torch.save(linear, folder / lpips.LINEAR.path)
    return network.eval(), linear


def test_published_files_give_the_published_sum(tmp_path, make_pairs):
    network, linear = weights_of(tmp_path)
    pairs = make_pairs(2, size=64)
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    expected = torch.zeros(2)
    with torch.no_grad():
        a, b = ((images - shift) / scale for images in (pairs.original, pairs.customized))
        for index, layer in enumerate(network):
            a, b = layer(a), layer(b)
            if index in (1, 4, 7, 9, 11):
                u, v = (x / x.norm(dim=1, keepdim=True).clamp(min=1e-10) for x in (a, b))
                w = linear[f"lin{(1, 4, 7, 9, 11).index(index)}.model.1.weight"]
                expected += ((u - v).square() * w).sum(dim=1).mean(dim=(1, 2))
    measured = lpips.published(tmp_path)(pairs)
    torch.testing.assert_close(torch.from_numpy(measured.values[:, 0]).float(), expected, rtol=1e-4, atol=1e-6)


def test_missing_or_wrong_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(MetricUnavailable, match="alexnet-owt.*download.pytorch.org"):
        lpips.published(tmp_path)
    weights_of(tmp_path)
    (tmp_path / lpips.LINEAR.path).unlink()
    with pytest.raises(MetricUnavailable, match=r"lpips/alex\.pth does not exist.*PerceptualSimilarity"):
        lpips.published(tmp_path)
    torch.save({"other": torch.zeros(1)}, tmp_path / lpips.LINEAR.path)
    with pytest.raises(MetricUnavailable, match="version 0.1"):
        lpips.published(tmp_path)
