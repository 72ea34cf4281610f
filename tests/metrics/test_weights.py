import pickle

import pytest
import torch
from safetensors.torch import save_file

from spf.metrics import weights
from spf.metrics.base import MetricUnavailable

FILE = weights.Published("LPIPS", "sub/net.pth", "https://example.org (MIT)")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_the_own_folder_comes_before_the_cache_of_torch(tmp_path, cache):
    with pytest.raises(MetricUnavailable, match=r"LPIPS: .*sub/net\.pth does not exist.*https://example\.org \(MIT\)"):
        weights.find(FILE, tmp_path)
    cache.mkdir(parents=True)
    (cache / "net.pth").touch()
    assert weights.find(FILE, tmp_path) == cache / "net.pth"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "net.pth").touch()
    assert weights.find(FILE, tmp_path) == tmp_path / "sub" / "net.pth"


def test_tensors_of_all_kinds_of_files(tmp_path):
    tensors = {"a": torch.arange(3.0)}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "b.pth")
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "c.pt")
    for path in tmp_path.glob("?.*"):
        assert torch.equal(weights.load_tensors(path)["a"], tensors["a"])


class Harmful:
    def __reduce__(self):
        return (open, ("harm", "w"))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(MetricUnavailable, match="cannot be read as weights"):
        weights.load_tensors(tmp_path / "bad.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"not weights"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_named(tmp_path, content, suffix):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(MetricUnavailable, match=f"damaged{suffix} cannot be read"):
        weights.load_tensors(path)


def test_a_file_without_plain_weights_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(MetricUnavailable, match="does not hold plain weights"):
        weights.load_tensors(tmp_path / "list.pth")
