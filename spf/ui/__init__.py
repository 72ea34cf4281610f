"""The page: presentation only. `build.build(service)` puts it together; a panel is a function taking the service."""

from spf.ui import _stubs

_stubs.install()
