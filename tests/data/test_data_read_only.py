"""F10: folders and files that this user may read but not change, or not even read. Done as a user without privileges."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from spf.data import edit
from spf.data.check import check_folder
from spf.data.layouts import read_layout
from spf.data.pictures import load_picture
from spf.data.records import read_folder
from spf.data.writer import write_folder
from spf.errors import DataError

NOBODY = 65534


@pytest.fixture
def shared(picture_set):
    """A good set where every user can look; it belongs to this one."""
    place = Path(tempfile.mkdtemp(prefix="read-only-"))
    os.chmod(place, 0o755)
    folder = Path(shutil.copytree(picture_set(), place / "set"))
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(place)


def as_nobody(work):
    """What `work` returns, or the text of its DataError, done with no right to anything of this user's."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(NOBODY)
    try:
        return "done", work()
    except DataError as error:
        return "refused", str(error)
    finally:
        os.seteuid(me)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lock(folder, mode=0o555):
    for path in folder.rglob("*"):
        path.chmod(0o444)
    folder.chmod(mode)


def test_a_read_only_folder_is_checked_and_trained_on_like_any_other(shared):
    before, report = contents(shared), check_folder(shared).to_dict()
    lock(shared)

    def work():
        records = read_folder(shared)
        return check_folder(shared).to_dict(), len(records), load_picture(records[0].path, 64).size

    assert as_nobody(work) == ("done", (report, 8, (64, 64))) and report["ok"]
    assert contents(shared) == before, "nothing was left there"


@pytest.mark.parametrize("change", [
    lambda folder, rows: edit.set_all_texts(folder, {rows[0]: ("a man", "a hat")}),
    lambda folder, rows: edit.remove(folder, rows[:1])])
def test_what_cannot_be_changed_is_named_and_stays_as_it_is(shared, change):
    before = contents(shared)
    lock(shared)
    ended, words = as_nobody(lambda: change(shared, read_layout(shared).rows))
    assert ended == "refused" and str(shared) in words and "cannot be written (Permission denied)" in words
    assert contents(shared) == before


def test_a_set_is_not_written_where_nothing_may_be(shared, picture):
    before = contents(shared)
    lock(shared)
    for place in (shared, shared / "new"):
        ended, words = as_nobody(lambda place=place: write_folder(place, [(picture(), "a man", "a hat")]))
        assert ended == "refused" and str(shared) in words, "somebody else's pictures, or no right to write"
    assert contents(shared) == before and json.loads((shared / "metadata.jsonl").read_text().splitlines()[0])


def test_a_folder_that_cannot_be_read_is_one_problem(shared):
    lock(shared, 0o000)
    ended, report = as_nobody(lambda: check_folder(shared).to_dict())
    (problem,) = report["problems"]
    assert ended == "done" and not report["ok"] and "check the folder's permissions" in problem["message"]


def test_every_file_that_cannot_be_read_is_named(shared):
    for name in ("1.png", "4.png"):
        (shared / name).chmod(0o000)
    ended, report = as_nobody(lambda: check_folder(shared).to_dict())
    assert ended == "done" and [(problem["file"], problem["kind"]) for problem in report["problems"]] == [
        ("1.png", "unreadable"), ("4.png", "unreadable")]
    (shared / "metadata.jsonl").chmod(0o000)
    ended, report = as_nobody(lambda: check_folder(shared).to_dict())
    assert ended == "done" and len(report["problems"]) == 1 and "Permission denied" in report["problems"][0]["message"]
