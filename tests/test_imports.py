"""The layers of the package, read off its import statements: what may know of what."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(REPOSITORY / "spf").rglob("*.py"), *REPOSITORY.glob("app.py")])

# Each unit of spf/ may import those of earlier lines. Units of one line do not import each other.
LEVELS = (
    "_first_import",
    "errors files _torchvision",
    "config method",
    "library",
    "clip data backbones",
    "metrics",
    "generation",
    "training",
    "baselines",
    "jobs pocket export",
    "evaluation study",
    "ui doctor plan",
    "cli",
    "__main__ app",
)
MODULES = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path for path in SOURCES if path.name != "__init__.py"}
RANK = {unit: rank for rank, units in enumerate(LEVELS) for unit in units.split()}
MODEL_LIBRARIES = ("diffusers", "transformers")
KNOWS_MODELS = ("backbones", "baselines", "export", "pocket")
LONGEST_FUNCTION = 60


def unit_of(path: Path) -> str:
    """'method' for spf/method/losses.py, 'config' for spf/config.py, '' for spf/__init__.py, 'app' for app.py."""
    if path.name == "app.py" and path.parent == REPOSITORY:
        return "app"
    first = path.relative_to(REPOSITORY / "spf").parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports_of(source: str) -> list[str]:
    """Dotted names of everything imported anywhere, in functions too: 'spf.config.parse' for `from spf.config import parse`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def complaints(unit: str, source: str) -> list[str]:
    """What is imported against the rules."""
    found = []
    for name in imports_of(source):
        library, *inner = name.split(".")
        other = inner[0] if library == "spf" and inner and inner[0] in RANK else ""
        if other and other != unit and unit and RANK[other] >= RANK[unit]:
            found.append(f"{unit} imports {other}")
        if unit == "method" and other != "method" and library not in {"torch", "einops", *sys.stdlib_module_names}:
            found.append(f"method imports {name}")
        if library == "gradio" and unit not in ("ui", "app"):
            found.append(f"{unit} imports gradio")
        if library in MODEL_LIBRARIES and unit not in KNOWS_MODELS and (unit, name) != ("clip", "transformers.CLIPTokenizer"):
            found.append(f"{unit} imports {name}")
    return found


def test_every_part_of_the_package_has_a_level():
    assert {unit_of(path) for path in SOURCES} - {""} <= set(RANK)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_go_one_way(path):
    assert complaints(unit_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("unit, source", [
    ("method", "from spf.config import MethodConfig"),
    ("method", "def f():\n    import numpy"),
    ("data", "from spf.backbones.base import TextFeatures"),
    ("backbones", "from spf import clip"),
    ("generation", "from spf.training.loop import Watch"),
    ("metrics", "from spf.generation import pair"),
    ("jobs", "from spf.pocket import world"),
    ("training", "from diffusers import UNet2DConditionModel"),
    ("clip", "from transformers import CLIPTextModel"),
    ("cli", "import gradio as gr"),
])
def test_the_check_itself_sees_a_forbidden_import(unit, source):
    assert complaints(unit, source)


def top_level_imports(path: Path) -> set[str]:
    """Modules of the package that have to be there before this one is: ('spf.a.b',), not those that a function imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = imports_of(ast.unparse(ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])))
    return {name for full in names for name in (full, full.rpartition(".")[0]) if name in MODULES}


def circle_from(module: str, needs: dict[str, set[str]], way: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The first way from a module back to itself or to one on the way, or ()."""
    if module in way:
        return (*way[way.index(module):], module)
    for other in needs.pop(module, ()):
        if found := circle_from(other, needs, (*way, module)):
            return found
        needs.pop(other, None)
    return ()


def test_modules_do_not_import_each_other_in_a_circle():
    """Which of them could be imported first would depend on who comes first."""
    needs = {name: top_level_imports(path) for name, path in MODULES.items()}
    assert [circle for name in MODULES if (circle := circle_from(name, dict(needs)))] == []
    assert circle_from("a", {"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ("b", "c", "b"), "the check itself sees one"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_function_is_long(path):
    functions = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                 if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


WATCHED_IMPORT = """
import os, sys
written = []
def watch(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.append(args[0])
    elif event in ("os.mkdir", "os.rename", "os.link", "os.symlink"):
        written.append(event)
sys.addaudithook(watch)
import spf, spf.cli, spf.config, spf.library
assert not written, written
assert not {"torch", "gradio", "diffusers"} & set(sys.modules), "heavy imports must wait until they are needed"
"""


def test_importing_writes_nothing_and_waits_with_torch(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-B", "-c", WATCHED_IMPORT], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
