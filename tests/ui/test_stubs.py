"""gradio imports without writing type stubs, and a version of gradio that writes none is left alone."""

import importlib.machinery
import subprocess
import sys
import types

import pytest

from spf._first_import import FirstImport
from spf.ui import _stubs

TOUCHED = """
import sys
touched = []
sys.addaudithook(lambda event, args: event == "open" and str(args[0]).endswith(".pyi") and touched.append(args[0]))
{first}
import gradio
assert gradio.Textbox(label="Text").change, "components have their events"
print(len(touched))
"""


def touched(first: str) -> int:
    """How many stubs are opened while a new process imports gradio."""
    command = [sys.executable, "-c", TOUCHED.format(first=first)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.fixture
def fresh(monkeypatch):
    """A process that seems never to have imported gradio."""
    monkeypatch.delitem(sys.modules, _stubs.MODULE, raising=False)
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not isinstance(finder, FirstImport)])


def finders() -> int:
    return sum(isinstance(finder, FirstImport) for finder in sys.meta_path)


def test_no_stub_is_touched_while_the_page_imports_gradio():
    assert touched("import spf.ui") == 0
    assert touched("") > 0, "the check itself sees them"


def test_the_finder_steps_aside_after_its_one_use(fresh):
    _stubs.install()
    spec = sys.meta_path[0].find_spec(_stubs.MODULE)
    assert isinstance(spec.loader, _stubs._Loader) and finders() == 0


def test_other_modules_do_not_concern_it(fresh):
    _stubs.install()
    assert sys.meta_path[0].find_spec("gradio.blocks") is None and finders() == 1


def test_installing_is_idempotent_and_does_nothing_after_the_import(fresh, monkeypatch):
    _stubs.install()
    _stubs.install()
    assert finders() == 1
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setitem(sys.modules, _stubs.MODULE, types.ModuleType(_stubs.MODULE))
    _stubs.install()
    assert sys.meta_path == []


@pytest.mark.parametrize("source, names", [
    ("def create_or_modify_pyi(*_): raise OSError", {"create_or_modify_pyi"}), ("x = 1", {"x"})])
def test_a_version_without_the_writer_is_left_as_it_is(tmp_path, source, names):
    path = tmp_path / "component_meta.py"
    path.write_text(source)
    module = types.ModuleType("component_meta")
    _stubs._Loader(importlib.machinery.SourceFileLoader("component_meta", str(path))).exec_module(module)
    assert {name for name in vars(module) if not name.startswith("__")} == names
    if "create_or_modify_pyi" in names:
        assert module.create_or_modify_pyi(object, "Name", []) is None
