"""Let gradio import without writing type stubs.

While gradio is imported, it parses the source of each of its components again and writes a `.pyi` beside it, for editors: half of
the time that the import takes (`python benchmarks/page.py` shows the start), and a race where two processes begin at once. A page
needs no stubs. Nothing here runs until somebody imports gradio.
"""

import importlib.abc
from importlib.machinery import ModuleSpec

from spf._first_import import at_first_import

MODULE = "gradio.component_meta"
WRITER = "create_or_modify_pyi"


class _Loader(importlib.abc.Loader):
    """Loads the module as ever and takes the writer of stubs away from it, which other versions may not have."""

    def __init__(self, loader: importlib.abc.Loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        if hasattr(module, WRITER):
            setattr(module, WRITER, lambda *component: None)


def _prepare(spec: ModuleSpec) -> None:
    spec.loader = _Loader(spec.loader)


def install() -> None:
    """Arrange for gradio to import without stubs in this process; idempotent, and without effect once gradio is imported."""
    at_first_import(MODULE, _prepare)
