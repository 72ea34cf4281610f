"""SPF-Portrait Studio: text-to-portrait customization that changes only what was asked for."""

from spf import _torchvision

__version__ = "0.1.0"

_torchvision.install()
