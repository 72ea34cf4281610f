import numpy as np
import pytest

from spf.evaluation.sampling import Sampling
from spf.evaluation.store import Store, fingerprint, key_of, pack, unpack
from spf.metrics.base import Rows


def test_a_key_changes_with_every_fact():
    facts = {"how": Sampling(64, 3, 2.0), "cases": [("a", 1)]}
    assert key_of(**facts) == key_of(**{**facts, "how": Sampling(64, 3, 2.0)})
    assert len({key_of(**facts), key_of(**{**facts, "how": Sampling(64, 4, 2.0)}), key_of(**{**facts, "cases": [("a", 2)]})}) == 3


def test_what_is_saved_is_found_again_and_nothing_half_written_stays(tmp_path):
    store = Store(tmp_path / "store")
    assert store.load("abcd") is None
    store.save("abcd", {"a": np.arange(3), "b": np.array(1.5)})
    found = store.load("abcd")
    assert found["a"].tolist() == [0, 1, 2] and float(found["b"]) == 1.5
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["abcd.npz"]


@pytest.mark.parametrize("share", [0, 0.4, 0.95])
def test_a_file_that_was_cut_off_counts_as_not_there(tmp_path, share):
    store = Store(tmp_path)
    store.save("abcd", {"a": np.random.default_rng(0).random(1000)})
    content = store.path("abcd").read_bytes()
    store.path("abcd").write_bytes(content[:int(share * len(content))])
    assert store.load("abcd") is None


def test_rows_survive_with_their_reasons(tmp_path):
    rows = {"id": Rows.of([0.5, np.nan], ["", "no face"]), "fid": Rows.of([[1.0, 2.0], [3.0, 4.0]])}
    Store(tmp_path).save("abcd", pack(rows))
    found = unpack(Store(tmp_path).load("abcd"))
    assert set(found) == {"id", "fid"} and found["id"].problems == ("", "no face") and found["fid"].problems == ("", "")
    np.testing.assert_array_equal(found["fid"].values, rows["fid"].values)


def test_other_weights_have_another_fingerprint(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"one")
    first = fingerprint(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"two")
    assert fingerprint(tmp_path) != first
