"""A run that is called off stops where it is: while it loads, encodes, draws a preview, validates, or in the middle of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from spf.errors import Cancelled

POLL = 0.1  # seconds between two looks
_SIGNAL = getattr(signal, "SIGUSR1", None)  # Windows has no signals for threads


class _Stop(BaseException):
    """Not an Exception: nobody on the way may take it for an error of a file or a setting, and tell that instead."""


@contextmanager
def stopped_when(asked: Callable[[], bool]) -> Iterator[None]:
    """Raises Cancelled inside the block once `asked()` is true, as soon as a call into a library returns.

    Only the main thread can be stopped from outside, and not on Windows; elsewhere nothing happens. It is raised once: a
    library that catches even BaseException leaves the matter to whoever looks between two steps.
    """
    if _SIGNAL is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    over = threading.Event()

    def stop(_number: int, _frame: object) -> None:
        if not over.is_set():
            over.set()
            raise _Stop

    def look(main: int) -> None:
        while not over.wait(POLL):
            if asked():
                return signal.pthread_kill(main, _SIGNAL)

    listener = threading.Thread(target=look, args=(threading.get_ident(),), daemon=True)
    before = signal.signal(_SIGNAL, stop)
    try:
        listener.start()
        try:
            yield
        finally:
            over.set()
    except _Stop:
        raise Cancelled("Training was cancelled.") from None
    finally:
        listener.join()
        signal.signal(_SIGNAL, before)
