"""Prepare something when a module is first imported, and nothing where it never is."""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec


class FirstImport(importlib.abc.MetaPathFinder):
    """Sees the first import of `module`, lets `prepare` have its spec, and steps aside."""

    def __init__(self, module: str, prepare: Callable[[ModuleSpec], None]):
        self.module, self._prepare = module, prepare

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(self.module)
        if spec is not None:
            self._prepare(spec)
        return spec


def at_first_import(module: str, prepare: Callable[[ModuleSpec], None]) -> None:
    """Call `prepare` then, in this process; idempotent, and without effect once the module is imported."""
    if module in sys.modules or any(isinstance(finder, FirstImport) and finder.module == module for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, FirstImport(module, prepare))
