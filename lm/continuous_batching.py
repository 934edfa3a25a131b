"""Continuous batching: one thread generates for all requests, which join and leave between the steps of the model.

A step of the model for several rows takes little longer than for one, so requests that come at different times share
their steps. The output of a request is what `SpeechLM.generate` gives for it alone, whatever runs beside it, except
where rounding decides (docs/tasks.md).
"""

import logging
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from numbers import Integral
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from .generation import CodeChunk, Generation, Item, RunningBatch
from .model import SpeechLM
from .prompt_checks import check_streamable
from .sampling import Sampling
from .templates import Prompt

logger = logging.getLogger(__name__)

# Ids of prompts that are read between two steps, except that one prompt may be longer. Rows that run wait meanwhile.
_PREFILL_IDS = 512


class BatchFullError(RuntimeError):
    """As many requests wait as may wait."""


class CancelledError(RuntimeError):
    """The request was cancelled, or the batch closed."""


class Request:
    """A request to a `ContinuousBatch`: iterate over it for chunks of codes, and take its `result`.

    Args:
        prompts: to answer one after the other. The next one takes the place of the previous one.
        sampling: how ids are sampled.
        seeds: of each prompt.
        chunk: number of codes to yield at a time; None to yield nothing.

    Attributes:
        is_cancelled: whether it was cancelled.
        generations: of the prompts that are answered.
    """

    def __init__(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int], chunk: int | None) -> None:
        self.prompts = prompts
        self.sampling = sampling
        self.seeds = seeds
        self.chunk = chunk
        self.is_cancelled = False
        self.generations: list[Generation] = []
        # The batch puts chunks here, and None or an exception at the end.
        self.events: SimpleQueue[CodeChunk | Exception | None] = SimpleQueue()

    def __iter__(self) -> Iterator[CodeChunk]:
        """Wait for chunks until the end.

        Raises:
            CancelledError: the request was cancelled, or the batch closed.
            ValueError: the model cannot answer it.
        """
        while isinstance(event := self.events.get(), CodeChunk):
            yield event
        self.events.put(event)  # for the next iteration
        if event is not None:
            raise event

    def result(self) -> list[Generation]:
        """Wait for the end, and return the generation of each prompt; errors are those of iterating."""
        for _ in self:
            pass
        return self.generations

    def cancel(self) -> None:
        """Give up the place in the batch, from the next step on. Nothing happens to a request that has ended."""
        self.is_cancelled = True
        self.events.put(CancelledError("the request was cancelled"))

    @property
    def is_answered(self) -> bool:
        """Whether all prompts are answered."""
        return len(self.generations) == len(self.prompts)

    @property
    def num_rows(self) -> int:
        """Number of rows that it takes in the batch."""
        return 2 if self.sampling.guidance > 1 else 1


class ContinuousBatch:
    """Generates for many requests at once, in a thread of its own. All methods may be called from any thread.

    Requests join and leave between steps. Close it after use, or use it in a `with`. On a CPU it keeps a copy of the
    weights, so it does not see later changes of the model.

    Args:
        lm: the model.
        max_rows: most sequences that are generated together. A request takes one row, with guidance two.
        max_waiting: most requests that wait for a row.

    Raises:
        ValueError: one of the two is below 1.
    """

    def __init__(self, lm: SpeechLM, max_rows: int = 16, max_waiting: int = 64) -> None:
        if max_rows < 1 or max_waiting < 1:
            raise ValueError(f"max_rows and max_waiting must be at least 1, found {max_rows} and {max_waiting}")
        self.lm = lm
        self.max_rows = max_rows
        self.max_waiting = max_waiting
        lm.model.eval()
        self._batch = RunningBatch(lm.model, lm.vocabulary)
        # Only the thread changes what runs. The condition guards the rest, and tells of its changes.
        self._running: dict[Item, Request] = {}
        self._waiting: deque[Request] = deque()
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="continuous-batch", daemon=True)
        self._thread.start()

    def __enter__(self) -> "ContinuousBatch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def num_running(self) -> int:
        """Number of requests that take part in the steps."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Number of requests that wait for a row."""
        return len(self._waiting)

    def submit(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling | None = None,
        seed: int | Sequence[int] = 0,
        chunk: int | None = None,
        wait: bool = False,
    ) -> Request:
        """Add a request.

        Args:
            prompts: to answer one after the other, in one row.
            sampling: `Sampling()` by default.
            seed: of each prompt, or one for all.
            chunk: number of codes to yield at a time; by default none are, and only the result matters.
            wait: wait until fewer than `max_waiting` requests wait, instead of raising an error.

        Raises:
            BatchFullError: too many requests wait.
            ValueError: a prompt is refused by `SpeechLM.generate` or cannot be streamed, there are not as many seeds as
                prompts, or the request needs more rows than there are.
            RuntimeError: the batch is closed.
        """
        sampling = sampling or Sampling()
        prompts = self.lm.check_prompts(prompts, sampling)
        if not prompts:
            raise ValueError("a request needs at least one prompt, found none")
        if chunk is not None:
            check_streamable(prompts, chunk)
        seeds: Any = [seed] * len(prompts) if isinstance(seed, Integral) else seed
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, or one for all, found {len(seeds)}")
        request = Request(prompts, sampling, seeds, chunk)
        if request.num_rows > self.max_rows:
            raise ValueError(f"guidance needs two rows, and max_rows is {self.max_rows}: make a batch of more rows")
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._is_closed or len(self._waiting) < self.max_waiting)
            if self._is_closed:
                raise RuntimeError("the batch is closed: make a new one")
            if len(self._waiting) >= self.max_waiting:
                raise BatchFullError(
                    f"{self.num_running} requests run and {self.max_waiting} wait, as many as may: try again later, "
                    "or make a batch with a larger max_rows or max_waiting"
                )
            self._waiting.append(request)
            self._changed.notify_all()
        return request

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling | None = None, seed: int | Sequence[int] = 0
    ) -> list[Generation]:
        """Generate the outputs of prompts, one after the other, and wait for a row; arguments as in `submit`."""
        return self.submit(prompts, sampling, seed, wait=True).result()

    def stream(
        self, prompts: Sequence[Prompt], sampling: Sampling | None = None, seed: int = 0, chunk: int = 25
    ) -> Generator[CodeChunk, None, list[Generation]]:
        """Yield the codes of prompts, one after the other. Closing the generator cancels the request.

        Arguments and errors are those of `submit`, which the first `next` calls.

        Returns:
            A generator of chunks, whose return value has the generation of each prompt.
        """
        request = self.submit(prompts, sampling, seed, chunk)
        try:
            yield from request
        finally:
            request.cancel()
        return request.generations

    def close(self) -> None:
        """End the thread after the present step. Requests that have not ended get a `CancelledError`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        """Answer requests until the batch is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._running or self._waiting or self._is_closed)
                if self._is_closed:
                    break
                arrived = self._take_waiting()
                self._changed.notify_all()
            try:
                self._join(arrived)
                self._batch.write()
                self._deliver()
                self._batch.read()
            except Exception as error:
                # The model failed, for example for lack of memory, so that the state of its cache is unknown.
                logger.exception("a step failed, and with it %d requests", len(self._running))
                self._end_all([*self._running.values(), *arrived], error)
                self._batch = RunningBatch(self.lm.model, self.lm.vocabulary)
        self._end_all([*self._running.values(), *self._waiting], CancelledError("the batch was closed"))

    def _take_waiting(self) -> list[Request]:
        """Return the requests that can join now, in the order in which they came."""
        taken: list[Request] = []
        num_rows = sum(request.num_rows for request in self._running.values())
        num_ids = 0
        while self._waiting:
            request = self._waiting[0]
            if not request.is_cancelled:
                num_rows += request.num_rows
                num_ids += len(request.prompts[len(request.generations)].ids)
                if num_rows > self.max_rows or (taken and num_ids > _PREFILL_IDS):
                    break
                taken.append(request)
            self._waiting.popleft()
        return taken

    def _join(self, requests: Sequence[Request]) -> None:
        """Let the model read the next prompt of requests. One that it cannot read ends its request."""
        items = []
        for request in requests:
            i = len(request.generations)
            items.append(Item(request.prompts[i], request.sampling, request.seeds[i], self.lm.vocabulary))
        arrived = dict(zip(items, requests, strict=True))
        if not items:
            return
        try:
            self._batch.join(items)
            self._running.update(arrived)
        except ValueError:
            # Some of them are at fault, so each one is tried alone.
            for item, request in arrived.items():
                try:
                    self._batch.join([item])
                    self._running[item] = request
                except ValueError as error:
                    request.events.put(error)

    def _deliver(self) -> None:
        """Pass on what was written, and take finished items out of those that run."""
        for item, request in list(self._running.items()):
            item.is_cancelled = request.is_cancelled
            if item.error is not None:
                request.events.put(item.error)
            elif request.chunk is not None:
                for chunk in item.take_chunks(request.chunk):
                    request.events.put(chunk)
            if item.is_finished:
                del self._running[item]
            if item.constraint.done:
                request.generations.append(item.generation())
                if request.is_answered:
                    request.events.put(None)
                else:
                    # First in the line, so that its next prompt takes the row that it has left.
                    with self._changed:
                        self._waiting.appendleft(request)

    def _end_all(self, requests: Sequence[Request], error: Exception) -> None:
        self._running.clear()
        for request in requests:
            request.events.put(error)
