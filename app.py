"""Start the studio: flags -> GenerationService -> ui.build -> launch. `python app.py --help` lists the flags."""

from __future__ import annotations

import argparse
import atexit
import ipaddress
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import spf  # noqa: F401  (before torch: lets torchvision import beside a CPU build of it)
from spf.errors import InvalidInput, SpfError

log = logging.getLogger("app")


def main(arguments: list[str] | None = None) -> None:
    """Serve until interrupted. Bad flags, a taken port and a damaged setup end with one sentence and status 2."""
    options = _flags().parse_args(arguments)
    try:
        auth = _auth(options)
        _check_address(options.host, options.port)
        _serve(options, auth)
    except SpfError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="SPF-Portrait Studio. Data lives in workspace/, or where SPF_HOME says.")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on; one that others reach needs --auth")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask visitors for a password")
    parser.add_argument("--device", help="torch device such as cpu or cuda; the best one by default")
    return parser


def _auth(options: argparse.Namespace) -> tuple[str, str] | None:
    """User and password. Raises InvalidInput without them where others can reach the page."""
    if options.auth is None:
        if not _is_loopback(options.host):
            raise InvalidInput("--host", f"{options.host} is open to others; protect it with --auth user:password")
        return None
    user, colon, password = options.auth.partition(":")
    if not (user and colon and password):
        raise InvalidInput("--auth", "must be of the form user:password, neither of them empty")
    return user, password


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_address(host: str, port: int) -> None:
    """Raises InvalidInput, in a moment rather than after all imports, if nothing can be served there."""
    if not 1 <= port <= 65535:
        raise InvalidInput("--port", f"must lie between 1 and 65535 (got {port})")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise InvalidInput("--host", f"'{host}' is no address of this computer; leave it out") from None
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise InvalidInput("--port", (
                f"{port} on {host} cannot be used ({error.strerror}); stop the program that has it, "
                f"or choose another one, for example --port {port % 65535 + 1}")) from None


class LateService:
    """A GenerationService that is imported and made when it is first used, so that the page opens before torch."""

    def __init__(self, device: str | None):
        self._device, self._lock, self._service = device, threading.Lock(), None

    def _made(self) -> Any:
        with self._lock:
            if self._service is None:
                from spf.baselines.registry import GUIDES
                from spf.generation.service import GenerationService
                from spf.jobs.beside import require_room

                _check_device(self._device)
                self._service = GenerationService(self._device, GUIDES, require_room)
            return self._service

    def load(self, model: str) -> Any:
        return self._made().load(model)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return self._made().generate(*args, **kwargs)

    def generate_all(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        yield from self._made().generate_all(*args, **kwargs)


def _check_device(name: str | None) -> None:
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError):
        raise InvalidInput("--device", f"'{name}' cannot be used here; start again without it, or with cpu") from None


def _leave_a_core() -> None:
    """Draw with one thread less than there are cores, unless OMP_NUM_THREADS says how many: the browser needs one.

    Every operation ends when its slowest thread does. Where all cores draw, the page's work holds each of them up in turn:
    on two cores a pair takes longer than with one thread, and a swapped phrase, which is as much work for the page, by more.
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), cores - 1)))


def _warm_up(service: LateService) -> None:
    """Load the default model while the visitor looks around; what fails here is told by the first Generate."""
    from spf.ui.catalog import DEFAULT_MODEL

    _leave_a_core()
    try:
        service.load(DEFAULT_MODEL)
    except SpfError as error:
        log.warning("%s", error)
    except Exception:
        log.exception("the model could not be loaded")


def _private_temporary_folder() -> None:
    """Uploads and pictures of the page go to a folder that only this user can read, and go away with the app."""
    if "GRADIO_TEMP_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="spf-portrait-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["GRADIO_TEMP_DIR"] = folder


def _serve(options: argparse.Namespace, auth: tuple[str, str] | None) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    os.environ["NO_PROXY"] = ",".join(filter(None, (os.environ.get("NO_PROXY"), "localhost,127.0.0.1")))
    _private_temporary_folder()
    from spf.ui import build, launch

    service = LateService(options.device)
    demo = build.build(service)
    try:
        url = launch.launch(demo, options.host, options.port, auth)
    except OSError as error:
        raise InvalidInput("--port", f"{options.port} cannot be used ({error}); choose another one") from None
    print(f"SPF-Portrait Studio is ready at {url}  (stop it with Ctrl+C)", flush=True)
    threading.Thread(target=_warm_up, args=(service,), daemon=True, name="warm-up").start()
    demo.block_thread()


if __name__ == "__main__":
    main()
