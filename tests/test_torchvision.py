"""The finder that lets torchvision import beside a CPU build of torch: silent where it is not needed."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

import spf._torchvision
from spf._first_import import FirstImport

SOURCE = Path(spf._torchvision.__file__)


@pytest.fixture
def fresh(monkeypatch):
    """A second copy of the module in a process that seems never to have imported torchvision."""
    spec = importlib.util.spec_from_file_location("fresh_torchvision", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        monkeypatch.delitem(sys.modules, name)
    others = [finder for finder in sys.meta_path if not isinstance(finder, FirstImport)]
    monkeypatch.setattr(sys, "meta_path", others)
    return module


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """installed(loads): torchvision is there, and its native library loads or raises. Returns what was tried to load."""
    (tmp_path / "_C.so").touch()
    spec = ModuleSpec("torchvision", loader=None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]

    def make(loads: bool, spec: ModuleSpec | None = spec) -> list[str]:
        tried = []

        def load(path):
            tried.append(path)
            if not loads:
                raise OSError("libtorch_cuda.so: cannot open shared object file")

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
        monkeypatch.setattr(torch.ops, "load_library", load)
        return tried

    return make


@pytest.fixture
def declared(monkeypatch) -> list[str]:
    """Schemas that were declared; the real library refuses a second declaration in one process, and so does this."""
    schemas, namespaces = [], []

    class Library:
        def __init__(self, namespace, kind):
            assert (namespace, kind) == ("torchvision", "DEF") and not namespaces
            namespaces.append(namespace)

        def define(self, schema):
            schemas.append(schema)

    monkeypatch.setattr(torch.library, "Library", Library)
    return schemas


def find(module):
    """What `import torchvision` asks the finder."""
    module.install()
    return sys.meta_path[0].find_spec("torchvision")


def test_nothing_is_declared_where_the_native_library_loads(fresh, installed, declared):
    tried = installed(loads=True)
    assert find(fresh).name == "torchvision"
    assert len(tried) == 1 and tried[0].endswith("_C.so")
    assert declared == []


def test_operators_are_declared_where_it_does_not_load(fresh, installed, declared):
    installed(loads=False)
    assert find(fresh).name == "torchvision"
    assert [schema.split("(")[0] for schema in declared] == ["nms", "qnms"]


def test_the_finder_steps_aside_after_its_one_use(fresh, installed, declared):
    installed(loads=False)
    find(fresh)
    assert not any(isinstance(finder, FirstImport) for finder in sys.meta_path)


def test_looking_for_torchvision_twice_without_importing_it_declares_once(fresh, installed, declared):
    installed(loads=False)
    find(fresh)
    find(fresh)
    assert len(declared) == 2


def test_no_torchvision_at_all_is_left_to_python(fresh, installed, declared):
    installed(loads=False, spec=None)
    assert find(fresh) is None
    assert declared == []


def test_other_modules_do_not_concern_it(fresh, installed, declared):
    tried = installed(loads=False)
    fresh.install()
    assert sys.meta_path[0].find_spec("torch") is None
    assert isinstance(sys.meta_path[0], FirstImport) and not tried


def test_installing_is_idempotent_and_does_nothing_after_the_import(fresh, monkeypatch):
    fresh.install()
    fresh.install()
    assert sum(isinstance(finder, FirstImport) for finder in sys.meta_path) == 1
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setitem(sys.modules, "torchvision", torch)
    fresh.install()
    assert sys.meta_path == []


def test_torchvision_imports_here():
    from torchvision.transforms import Normalize

    assert Normalize([0.5], [0.5])(torch.ones(1, 2, 2)).tolist() == [[[1.0, 1.0], [1.0, 1.0]]]
