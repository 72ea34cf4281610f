"""A customization that was made elsewhere comes in whole and checked, or not at all."""

import json
import multiprocessing
import shutil
import struct
import time
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from spf.backbones import checkpoints
from spf.errors import CustomizationError, InvalidInput
from spf.export import incoming, workplace
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


def stop_half_way(path, reached) -> None:
    incoming._gather = lambda *arguments: reached.set() or time.sleep(600)
    import_customization(path)


def test_what_a_killed_import_left_is_cleared_by_the_next_one_and_nothing_else(elsewhere, spf_home):
    context = multiprocessing.get_context("fork")
    reached = [context.Event() for _ in range(2)]
    killed, alive = (context.Process(target=stop_half_way, args=(elsewhere["zip"], event), daemon=True) for event in reached)
    for process, event in zip((killed, alive), reached, strict=True):
        process.start()
        assert event.wait(60)
    root = spf_home / "customizations"
    (root / ".import-othercomputer-1-1000000000-01234567.partial").mkdir()
    killed.kill()
    killed.join()
    assert len(list(root.iterdir())) == 3 and len(list(root.glob(f".import-*-{killed.pid}-*"))) == 1
    import_customization(elsewhere["folder"])
    left = sorted(path.name for path in root.iterdir())
    alive.kill()
    alive.join()
    assert len(left) == 3 and "hat" in left and ".import-othercomputer-1-1000000000-01234567.partial" in left
    assert any(f"-{alive.pid}-" in name for name in left), "another import is under way"


def test_a_process_with_the_number_of_a_dead_one_keeps_nothing(spf_home):
    root = spf_home / "customizations"
    with workplace.working_folder() as mine:
        created = mine.name.split("-")[-2]
        mine.with_name(mine.name.replace(f"-{created}-", f"-{float(created) - 1000:.2f}-")).mkdir()
        with workplace.working_folder() as second:
            assert sorted(root.iterdir()) == sorted([mine, second])
    assert not spf_home.exists()
    with workplace.working_folder():
        (spf_home / "studio.sqlite").write_text("of a run that began meanwhile")
    assert [path.name for path in spf_home.iterdir()] == ["studio.sqlite"]
    with pytest.raises(CustomizationError):
        import_customization(spf_home)
    assert [path.name for path in spf_home.iterdir()] == ["studio.sqlite"], "an import that is refused leaves no folder"


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


def test_a_device_is_refused_unread(spf_home):
    for path in ("/dev/zero", "/dev/null"):
        with pytest.raises(InvalidInput, match="path: /dev/"):
            import_customization(path)
    assert not spf_home.exists()


def test_a_data_folder_that_cannot_be_written_is_named(elsewhere, spf_home):
    shutil.rmtree(spf_home)
    spf_home.write_text("a file")
    with pytest.raises(CustomizationError, match="home cannot be written .*SPF_HOME"):
        import_customization(elsewhere["delta"])


def test_two_at_one_time_do_not_meet(elsewhere, spf_home, monkeypatch):
    """The second one begins and ends while the first one looks for its model."""
    found = incoming._model_of

    def meanwhile(card):
        monkeypatch.setattr(incoming, "_model_of", found)
        import_customization(elsewhere["zip"], name="second")
        return found(card)

    monkeypatch.setattr(incoming, "_model_of", meanwhile)
    import_customization(elsewhere["folder"], name="first")
    assert sorted(customizations()) == ["first", "second"]
    assert sorted(path.name for path in (spf_home / "customizations").iterdir()) == ["first", "second"]
