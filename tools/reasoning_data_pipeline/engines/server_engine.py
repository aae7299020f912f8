"""The server engine: OpenAI-compatible servers (vLLM, lmdeploy, SGLang), on this node or others, without their pins.

At start each server must read prompts as training does (`server_check`). Then many requests are in flight, each at the
least busy server (`server_pool`). A request that a server fails on is tried again with the same seed, a few times at
most; a server that is gone gets no more requests until it is back, and loses none. The run ends when none is left.

    --engine server --server http://node7:8000 http://node8:8000
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue

from internvl_chat.data.images import ImageError
from internvl_chat.model import load_config, load_tokenizer
from internvl_chat.records.rows import RecordError
from tools.reasoning_data_pipeline.engines.inputs import Draw, PromptEncoder, PromptReader, draws, eos_ids, failure
from tools.reasoning_data_pipeline.engines.protocol import (
    Completion,
    EngineError,
    EngineOptions,
    Failure,
    Request,
    Result,
)
from tools.reasoning_data_pipeline.engines.server_check import Manner, OtherModelError, check_server
from tools.reasoning_data_pipeline.engines.server_client import (
    BrokenError,
    BusyError,
    MisconfiguredError,
    RefusedError,
    Server,
    ServerError,
    UnreachableError,
)
from tools.reasoning_data_pipeline.engines.server_pool import WATCH_SECONDS, NoServerLeftError, PooledServer, ServerPool
from tools.reasoning_data_pipeline.engines.server_requests import Asking, MisreadError, WrittenPrompt, check_prompt

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 64  # samples of one request
AHEAD = 2  # times the samples in flight that are read ahead


@dataclass(frozen=True)
class ServerTask:
    """Some samples of a request: `question` will be read, or raise what makes the request fail."""

    request: Request
    draw: Draw
    question: Future[WrittenPrompt]


class ServerEngine:
    """Samples by way of servers; see `engines.Engine`."""

    def __init__(self, pool: ServerPool, asking: Asking, reader: PromptReader, *, draws_many: bool) -> None:
        """Take checked servers, and whether all of them draw several samples of a request as they should."""
        self.pool, self.asking, self.reader, self.options = pool, asking, reader, asking.options
        self._most = MOST_AT_ONCE if draws_many and self.options.sampling.temperature > 0 else 1
        self._readers = ThreadPoolExecutor(max(1, self.options.num_workers), "reading")
        self._askers = ThreadPoolExecutor(pool.capacity, "asking")

    @classmethod
    def open(cls, options: EngineOptions) -> ServerEngine:
        """Check the servers; those that do not answer yet are asked again later, those of other models never.

        Raises:
            ValueError: a server differs from training, or all serve other models.
            EngineError: none answers as long as patience lasts.
        """
        config = load_config(options.checkpoint)
        encoder = PromptEncoder(load_tokenizer(options.checkpoint), config)
        asking = Asking(encoder, encoder.stop_ids | eos_ids(options.checkpoint), options)
        reader = PromptReader(encoder, config, options.session_len)
        key = os.environ.get("SERVER_API_KEY", "")
        servers = [Server(url, key, options.server.deadline) for url in options.server.urls]
        check = partial(check_server, asking=asking, reader=reader)
        places = first_checks(servers, check)
        end = time.monotonic() + options.server.patience
        while not any(place.manner for place in places):
            if time.monotonic() > end:
                raise EngineError(f"no server answers of {', '.join(map(str, servers))}")
            time.sleep(WATCH_SECONDS)
            places = first_checks([place.server for place in places], check)
        there = [place.manner for place in places if place.manner is not None]
        session_len = min([options.session_len, *(manner.session_len for manner in there if manner.session_len)])
        asking = replace(asking, options=replace(options, session_len=session_len))
        pool = ServerPool(places, check, in_flight=options.server.in_flight, patience=options.server.patience)
        reader = PromptReader(encoder, config, session_len)
        return cls(pool, asking, reader, draws_many=all(manner.draws_many for manner in there))

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """ServedAnswer requests; see `engines.Engine.generate`."""
        finished: SimpleQueue[Future[list[Result]]] = SimpleQueue()
        source = self._tasks(requests)
        running: dict[Future[list[Result]], ServerTask] = {}
        samples, failed = 0, set()
        while True:
            while samples < AHEAD * self.pool.capacity and (task := next(source, None)) is not None:
                future = self._askers.submit(self._answer, task)
                running[future] = task
                samples += len(task.draw.samples)
                future.add_done_callback(finished.put)
            if not running:
                return
            future = finished.get()
            task = running.pop(future)
            samples -= len(task.draw.samples)
            for result in self._results(future, task):
                if not isinstance(result, Failure):
                    yield result
                elif result.key not in failed:  # once for all samples of a request
                    failed.add(result.key)
                    yield result

    def _tasks(self, requests: Iterable[Request]) -> Iterator[ServerTask]:
        for request in requests:
            question = self._readers.submit(self._read, request)
            if self.options.sampling.temperature == 0:  # all samples are the same
                yield ServerTask(request, Draw(tuple(request.seeds), next(iter(request.seeds.values()))), question)
                continue
            yield from (ServerTask(request, draw, question) for draw in draws(request, self._most))

    def _read(self, request: Request) -> WrittenPrompt:
        return WrittenPrompt.of(self.reader.read(request), self.options.server.media_root)

    def _results(self, future: Future[list[Result]], task: ServerTask) -> list[Result]:
        """What came of a task; EngineError where nothing can come any more."""
        error = future.exception()
        if isinstance(error, NoServerLeftError | MisconfiguredError):
            raise EngineError(f"{task.request.key} and those behind it are not answered: {error}") from error
        return future.result()

    def _answer(self, task: ServerTask) -> list[Result]:
        """Ask until there is an answer, or enough tries were made."""
        try:
            question = task.question.result()
        except (ImageError, RecordError) as error:
            return [failure(task.request, error)]
        tries, begin = 0, time.monotonic()
        while True:
            place = self.pool.take(len(task.draw.samples))
            try:
                return self._ask(place, task, question)
            except RefusedError as error:
                return [failure(task.request, error)]
            except UnreachableError as error:
                self.pool.lose(place, error)
            except MisconfiguredError:  # another model is served there now, or another key wanted
                if self.pool.recheck(place):
                    raise
            except BusyError as error:
                self.pool.rest(place, error.seconds)
                if time.monotonic() - begin > self.options.server.deadline:
                    return [failure(task.request, error)]
            except BrokenError as error:
                tries += 1
                self.pool.suspect(place, error)
                if tries > self.options.server.retries:
                    return [Failure(task.request.key, f"{tries} tries failed, the last one at {error}")]
            except MisreadError as error:
                if self.pool.recheck(place):  # it reads other prompts well
                    return [Failure(task.request.key, f"{place.server} reads this prompt otherwise: {error}")]
            finally:
                self.pool.give(place, len(task.draw.samples))

    def _ask(self, place: PooledServer, task: ServerTask, question: WrittenPrompt) -> list[Result]:
        """The answers of a server; a `ServerError` or MisreadError where there are none."""
        manner = place.manner
        if manner is None:
            raise UnreachableError(f"{place.server}: gone")
        samples = task.draw.samples
        if self.options.sampling.temperature == 0:
            [answer] = self._reply(place.server, manner, question, Draw(samples[:1], task.draw.seed))
            answers = [answer] * len(samples)
        else:
            answers = self._reply(place.server, manner, question, task.draw)
        return [
            Completion(task.request.key, sample, answer.text, answer.finish, answer.tokens, answer.logprobs)
            for sample, answer in zip(samples, answers, strict=True)
        ]

    def _reply(self, server: Server, manner: Manner, question: WrittenPrompt, draw: Draw) -> list:
        reply = server.post("chat/completions", self.asking.body(question, draw, manner.dialect, manner.model))
        check_prompt(reply, question.ids)
        return self.asking.answers(reply, len(draw.samples))

    def close(self) -> None:
        """Give up what is in flight."""
        self.pool.close()
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._askers.shutdown(wait=False, cancel_futures=True)


def first_checks(servers: Iterable[Server], check: Callable[[Server], Manner]) -> list[PooledServer]:
    """The servers of this checkpoint, each with how it is asked, None where it does not answer yet.

    Raises:
        ValueError: a server differs from training, or all serve other models.
        EngineError: a server takes no requests of this kind, such as without a key.
    """
    places, others = [], []
    for server in servers:
        try:
            places.append(PooledServer(server, check(server)))
            logger.info("%s: %s", server, places[-1].manner)
        except OtherModelError as error:
            others.append(error)
            logger.warning("passed over: %s", error)
        except MisconfiguredError as error:
            raise EngineError(f"the check at start failed: {error}") from error
        except ServerError as error:
            places.append(PooledServer(server, None))
            logger.warning("%s does not answer yet: %s", server, error)
    if others and not places:
        raise others[0]
    return places
