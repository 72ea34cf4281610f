"""A generation that is watched while it runs: a worker thread, a queue, and an iterator a page can follow."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from spf.config import GenerationRequest
from spf.generation.request import GenerationResult, StepView

HERTZ = 10  # looks per second at most: a page that gets more falls behind
HEARTBEAT = 0.5  # seconds after which nothing is news, too; a closed page is noticed then


class Service(Protocol):
    """The part of GenerationService that the page uses."""

    def generate(self, request: GenerationRequest, on_step=None, is_cancelled=lambda: False) -> GenerationResult: ...


def stream(service: Service, request: GenerationRequest, stop: threading.Event,
           ) -> Iterator[StepView | GenerationResult | None]:
    """The newest view at most HERTZ times a second, None while there is no news, and the result last.

    Raises what the service raises. Setting `stop` cancels; so does closing the iterator, for example with the page.
    """
    news: queue.Queue = queue.Queue()
    closed = threading.Event()

    def is_cancelled() -> bool:
        return stop.is_set() or closed.is_set()

    threading.Thread(target=_work, args=(service, request, is_cancelled, news), daemon=True, name="generate").start()
    try:
        while True:
            item = _newest(news)
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, GenerationResult):
                return
            stop.wait(1 / HERTZ)
    finally:
        closed.set()


def _work(service: Service, request: GenerationRequest, is_cancelled: Callable[[], bool], news: queue.Queue) -> None:
    try:
        news.put(service.generate(request, on_step=news.put, is_cancelled=is_cancelled))
    except BaseException as error:  # handed over: raised again where the iterator is read
        news.put(error)


def _newest(news: queue.Queue) -> StepView | GenerationResult | BaseException | None:
    """The last thing in the queue, older views dropped; waits one heartbeat for it."""
    try:
        item = news.get(timeout=HEARTBEAT)
    except queue.Empty:
        return None
    while not news.empty():
        item = news.get_nowait()
    return item
