"""A generation that is watched while it runs: a worker thread, a queue, and an iterator a page can follow."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from spf.config import GenerationRequest
from spf.generation.request import GenerationResult, StepView

HERTZ = 10  # looks per second at most: a page that gets more falls behind
SHARE = 0.1  # of the time that previews may take: decoding one is no small part of a step, and both paths have one
HEARTBEAT = 0.5  # seconds after which nothing is news, too; a closed page is noticed then


class Service(Protocol):
    """The part of GenerationService that the page uses."""

    def generate(self, request: GenerationRequest, on_step=None, is_cancelled=lambda: False) -> GenerationResult:
        """One pair."""

    def generate_all(self, request: GenerationRequest, on_step=None, is_cancelled=lambda: False) -> Iterator[GenerationResult]:
        """A pair for every seed of the request, in order."""


@dataclass(frozen=True, eq=False)
class Growing:
    """A look at the seeds that are being drawn: a view of the first of them."""

    view: StepView
    first: int  # which seed of the request, from 0
    together: int | None  # how many are drawn in one batch; None while that is not known


def stream(service: Service, request: GenerationRequest, stop: threading.Event, previews: bool = True,
           ) -> Iterator[Growing | GenerationResult | None]:
    """Some looks as `Looks` thins them out, None while there is no news, and every seed's result as it is ready.

    `previews`: whether the pictures of the looks are wanted. Raises what the service raises. Setting `stop` cancels; so does
    closing the iterator, for example with the page.
    """
    news: queue.Queue = queue.Queue()
    closed = threading.Event()
    left = request.count

    def is_cancelled() -> bool:
        return stop.is_set() or closed.is_set()

    looks = Looks(news, request.count, previews)
    threading.Thread(target=_work, args=(service, request, is_cancelled, news, looks), daemon=True, name="generate").start()
    try:
        while left:
            for item in _newest(news):
                if isinstance(item, BaseException):
                    raise item
                left -= isinstance(item, GenerationResult)
                yield item
    finally:
        closed.set()


class Looks:
    """Passes views of the first seed of a batch on: the first at once, others when the time for one has come, the last never.

    Their previews are decoded if they are wanted. The result follows the last one in a moment. Views that are not passed on
    cost nothing.
    """

    def __init__(self, news: queue.Queue, count: int, previews: bool = True):
        self._news, self._count, self._previews, self._next = news, count, previews, 0.0
        self.begin(0)

    def begin(self, first: int) -> None:
        """From now on, seeds from the one at `first` are drawn."""
        self._first = self._last = first
        self._known = first + 1 == self._count

    def __call__(self, index: int, view: StepView) -> None:
        """Every seed of a batch is heard of at one step before any is at the next."""
        self._last = max(self._last, index)
        if index != self._first:
            return
        started = time.monotonic()
        if started >= self._next and view.step + 1 < view.num_inference_steps:
            if self._previews:
                view.pictures  # noqa: B018 - decoded here, between two steps: memory for both at once may not be there
            now = time.monotonic()
            self._next = now + max(1 / HERTZ, (now - started) / SHARE)
            together = self._last - self._first + 1
            self._news.put(Growing(view, self._first, together if self._known else None))
        self._known = True  # when this seed is heard of again


def _work(service: Service, request: GenerationRequest, is_cancelled: Callable[[], bool], news: queue.Queue,
          looks: Looks) -> None:
    try:
        for done, result in enumerate(service.generate_all(request, on_step=looks, is_cancelled=is_cancelled), 1):
            news.put(result)
            looks.begin(done)
    except BaseException as error:  # handed over: raised again where the iterator is read
        news.put(error)


def _newest(news: queue.Queue) -> list[Growing | GenerationResult | BaseException | None]:
    """What has come, of looks only the newest; one None where nothing has come within a heartbeat."""
    try:
        items = [news.get(timeout=HEARTBEAT)]
    except queue.Empty:
        return [None]
    while not news.empty():
        items.append(news.get_nowait())
    return [item for item in items[:-1] if not isinstance(item, Growing)] + items[-1:]
