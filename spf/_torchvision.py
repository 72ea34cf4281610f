"""Let torchvision import beside a CPU build of torch.

PyPI's Linux torchvision is linked against CUDA. Beside a CPU torch its `_C.so` cannot load, so the operators it
would have registered are missing and `import torchvision` fails - and with it open_clip, timm, and most of transformers
and diffusers, which all probe for it. Declaring the two operator schemas is enough for everything but the operators
themselves. Nothing here runs until somebody imports torchvision, and nothing is declared where `_C.so` loads.
"""

from pathlib import Path

from spf._first_import import at_first_import

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library = None  # must stay alive: torch forgets the schemas when the Library object dies


def _prepare(spec) -> None:
    if not _native_operators_load(spec):
        _declare_operators()


def _native_operators_load(spec) -> bool:
    import torch

    for folder in spec.submodule_search_locations or ():
        for library in Path(folder).glob("_C*.so"):
            try:
                torch.ops.load_library(str(library))
            except (OSError, ImportError):
                return False
    return True


def _declare_operators() -> None:
    global _library
    if _library is not None:  # torch refuses a second definition
        return
    import torch

    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)


def install() -> None:
    """Arrange for torchvision to import in this process; idempotent, and free until torchvision is imported."""
    at_first_import("torchvision", _prepare)
