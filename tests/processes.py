"""Further processes for tests. They begin from a clean server: a fork of this process inherits the locks of its threads."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.conftest"])

Patch = tuple[str, str, Any]  # (module, attribute, value): what fixtures changed in this process and the others need as well


def process(work: Callable, *arguments: Any, patches: Sequence[Patch] = ()) -> multiprocessing.process.BaseProcess:
    """`work(*arguments)`, a function of a module, in a process that ends with this one at the latest."""
    return SERVER.Process(target=_work, args=(os.environ["SPF_HOME"], list(patches), work, arguments), daemon=True)


def _work(home: str, patches: Sequence[Patch], work: Callable, arguments: Sequence[Any]) -> None:
    os.environ["SPF_HOME"] = home
    for module, attribute, value in patches:
        setattr(import_module(module), attribute, value)
    work(*arguments)
