"""A customization that was made elsewhere comes in whole and checked, or not at all."""

import json
import shutil
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from spf.backbones import checkpoints
from spf.errors import CustomizationError, InvalidInput
from spf.export.incoming import import_customization
from spf.export.outgoing import Export, export
from spf.library import CARD, WEIGHTS, customizations


@pytest.fixture
def elsewhere(taught, tmp_path, spf_home):
    """The customization as files of someone else: 'folder', 'zip' and 'delta'; none is installed."""
    export(Export("hat", "delta", tmp_path / "delta.safetensors"))
    shutil.move(taught.folder, tmp_path / "folder")
    with zipfile.ZipFile(tmp_path / "hat.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (CARD, WEIGHTS):
            archive.write(tmp_path / "folder" / name, f"hat/{name}")
    return {"folder": tmp_path / "folder", "zip": tmp_path / "hat.zip", "delta": tmp_path / "delta.safetensors"}


def nothing_came(spf_home) -> bool:
    return customizations() == {} and not list((spf_home / "customizations").glob("*"))


@pytest.mark.parametrize("form", ["folder", "zip", "delta"])
def test_it_comes_back_as_it_was(elsewhere, preset, form):
    expected = load_file(elsewhere["folder"] / WEIGHTS)
    found = import_customization(elsewhere[form])
    assert found.card.name == "hat" and list(customizations()) == ["hat"]
    tensors = checkpoints.customization("hat", preset).tensors()
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = 1e-3 if form == "delta" else 0
        torch.testing.assert_close(tensors[name], value.float(), atol=tolerance, rtol=tolerance)


def test_a_taken_name_is_refused_and_another_one_possible(elsewhere):
    import_customization(elsewhere["zip"])
    with pytest.raises(InvalidInput, match="'hat' exists"):
        import_customization(elsewhere["zip"])
    import_customization(elsewhere["zip"], name="cap")
    import_customization(elsewhere["zip"], force=True)
    assert sorted(customizations()) == ["cap", "hat"]
    with pytest.raises(InvalidInput, match="name: may hold"):
        import_customization(elsewhere["zip"], name="../../cap")


def test_one_of_a_model_that_is_not_here_is_refused(elsewhere, spf_home):
    path = elsewhere["folder"] / CARD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_sha256": "0" * 64}))
    with pytest.raises(CustomizationError, match="belongs to model 'published' with content 000000000000.*not on this computer"):
        import_customization(elsewhere["folder"])
    assert nothing_came(spf_home)


def entry(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def archives(folder) -> dict:
    """Archives that nobody honest makes: lists of (entry, content)."""
    card, weights = (folder / CARD).read_bytes(), (folder / WEIGHTS).read_bytes()
    good = [(entry(CARD), card), (entry(WEIGHTS), weights)]
    return {
        "slip": [*good, (entry("../../evil.txt"), b"x")], "absolute": [*good, (entry("/tmp/evil.txt"), b"x")],
        "backslash": [*good, (entry("..\\evil.txt"), b"x")], "drive": [*good, (entry("C:evil.txt"), b"x")],
        "link": [good[0], (entry(WEIGHTS, 0o120777), b"/etc/passwd")], "twice": [*good, (entry(f"a/{WEIGHTS}"), weights)],
        "other case": [*good, (entry(CARD.upper()), card)], "no weights": good[:1], "no card": good[1:], "nothing": [],
        "deep": [(entry(f"a/b/c/{CARD}"), card), (entry(f"a/b/c/{WEIGHTS}"), weights)],
        "many": [*good, *((entry(f"{i}.txt"), b"") for i in range(200))],
        "bomb": [good[0], (entry(WEIGHTS), bytes(64 << 20))], "huge card": [(entry(CARD), b" " * (2 << 20)), good[1]],
        "no numbers": [good[0], (entry(WEIGHTS), b"\xff" * 100)],
    }


@pytest.mark.parametrize("kind", [
    "slip", "absolute", "backslash", "drive", "link", "twice", "other case", "no weights", "no card", "nothing", "deep", "many",
    "bomb", "huge card", "no numbers"])
def test_a_hostile_archive_is_refused_and_leaves_nothing(elsewhere, tmp_path, spf_home, kind):
    path = tmp_path / "box" / "hostile.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in archives(elsewhere["folder"])[kind]:
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    with pytest.raises(CustomizationError) as caught:
        import_customization(path)
    assert len(str(caught.value)) < 400 and nothing_came(spf_home)
    assert not list(tmp_path.rglob("evil*")) and [entry.name for entry in path.parent.iterdir()] == ["hostile.zip"]


@pytest.mark.parametrize("kind", ["cut", "flipped", "encrypted"])
def test_a_damaged_archive_is_refused(elsewhere, tmp_path, spf_home, kind):
    raw = bytearray(elsewhere["zip"].read_bytes())
    if kind == "cut":
        raw = raw[: len(raw) // 2]
    elif kind == "flipped":
        raw[len(raw) // 2] ^= 0xFF
    else:
        for start in (raw.index(b"PK\x01\x02"), raw.rindex(b"PK\x01\x02")):
            raw[start + 8] |= 1
    (tmp_path / "bad.zip").write_bytes(raw)
    with pytest.raises(CustomizationError):
        import_customization(tmp_path / "bad.zip")
    assert nothing_came(spf_home)


@pytest.mark.parametrize("change", [
    "unknown tensor", "other shape", "integers", "nan", "cut", "no card", "damaged card", "overlap"])
def test_a_damaged_folder_is_refused(elsewhere, spf_home, change):
    folder, tensors = elsewhere["folder"], load_file(elsewhere["folder"] / WEIGHTS)
    first = next(iter(tensors))
    changes = {"unknown tensor": {"no.such": torch.ones(1)}, "other shape": {first: torch.ones(3)},
               "integers": {first: torch.ones_like(tensors[first], dtype=torch.int64)},
               "nan": {first: torch.full_like(tensors[first], float("nan"))}}
    if change in changes:
        save_file(tensors | changes[change], folder / WEIGHTS)
    elif change == "cut":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-5])
    elif change == "overlap":
        table = {name: {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]} for name in ("a", "b")}
        raw = json.dumps(table).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(2))
    elif change == "no card":
        (folder / CARD).unlink()
    else:
        (folder / CARD).write_text("[" * 100_000)
    with pytest.raises(CustomizationError):
        import_customization(folder)
    assert nothing_came(spf_home)


def test_a_file_that_is_no_delta_is_refused(elsewhere, spf_home, tmp_path):
    with pytest.raises(CustomizationError, match="not a delta exported by this app"):
        import_customization(elsewhere["folder"] / WEIGHTS)
    with pytest.raises(InvalidInput, match="does not exist"):
        import_customization(tmp_path / "gone.zip")
    assert nothing_came(spf_home)
