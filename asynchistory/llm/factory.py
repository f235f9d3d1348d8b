"""LLMFactory: one LLM instance a configuration, created exactly once."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

from asynchistory.errors import AsyncHistoryError, ClientCreationError
from asynchistory.forks import in_child, own_lock
from asynchistory.llm.key import ApiKey, client_key
from asynchistory.llm.port import LLMClient
from asynchistory.llm.providers import build_client
from asynchistory.records import JSON
from asynchistory.runs import (
    Waiter,
    checkpoint_if_cancelled,
    current_run,
    new_lock,
    wake,
)

if TYPE_CHECKING:
    from asynchistory.runs import Lock


#: Seconds to wait for each piece of an answer.
DEFAULT_TIMEOUT = 60.0


class FactoryStatistics(NamedTuple):
    """What a factory has done since it was made or cleared, and what it holds.

    Attributes:
        hits: instances given without waiting.
        misses: callers who found none.
        creations: instances created.
        failures: creations that raised.
        hand_overs: creations that another caller took over because the first was cancelled.
        size: instances held now.
    """

    hits: int
    misses: int
    creations: int
    failures: int
    hand_overs: int
    size: int


class _Flight:
    """One creation, and all who asked while it was under way, in any loop and thread."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.locks: dict[object, Lock] = {}
        self.waiters: deque[Waiter] = deque()
        self.led = False
        self.done = False
        self.instance: Any = None
        self.error: ClientCreationError | None = None

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error.with_traceback(None)
        return self.instance


class LLMFactory:
    """Creates each LLM instance once, for all tasks, event loops and threads of the process.

    Three layers keep that promise. A look-up without any lock answers whoever
    comes later. A lock of the running loop's own kind (``asyncio.Lock``,
    ``trio.Lock``) lets one task of each loop through. And between loops and
    threads one of them creates, while the others wait without blocking.

    If the creator is cancelled, another caller creates. If it fails, all who
    asked get the same :class:`~asynchistory.ClientCreationError`, nothing is
    kept, and the next call tries again.
    """

    def __init__(self) -> None:
        self._lock = own_lock(self, "_lock")  # never held across an await
        self._instances: dict[Hashable, Any] = {}
        self._flights: dict[Hashable, _Flight] = {}
        self._generation = 0
        self._hits = self._misses = self._creations = self._failures = self._hand_overs = 0
        in_child(self, "_let_go")

    async def get(
        self,
        /,
        provider: str,
        model: str,
        *,
        temperature: float | None = None,
        base_url: str | None = None,
        api_key: ApiKey = None,
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - of each step of a request, not of this call
        **options: JSON,
    ) -> LLMClient:
        """The LLM instance of a configuration, which is created if there is none.

        Args:
            provider: ``openai`` (and all who speak its format), ``scripted``, or one of
                :func:`register_provider`.
            model: the model's name there.
            temperature: None leaves it to the provider.
            base_url: the endpoint; the provider's own, or its environment variable's, if left out.
            api_key: the secret, or a function that gives it; the environment's if left out.
            timeout: seconds to wait for each piece of an answer.
            options: further fields of each request.

        Raises:
            ClientCreationError: it could not be made; the cause is its ``__cause__``.
            InvalidInputError: an argument cannot be used.
        """
        extras = options if timeout == DEFAULT_TIMEOUT else {**options, "timeout": timeout}
        key = client_key(provider, model, temperature, base_url, api_key, extras)

        async def create() -> LLMClient:
            await checkpoint_if_cancelled()
            return build_client(key, api_key=api_key, timeout=timeout, options=options)

        client: LLMClient = await self.get_or_create(key, create)
        return client

    async def get_or_create(self, key: Hashable, create: Callable[[], Awaitable[Any]]) -> Any:
        """The instance of ``key``; ``await create()`` makes it if there is none.

        Raises:
            ClientCreationError: ``create`` raised; the cause is its ``__cause__``.
            NoEventLoopError: neither asyncio nor trio is running here.
        """
        try:
            instance = self._instances[key]
        except KeyError:
            pass
        else:
            self._hits += 1
            return instance
        run = current_run()
        with self._lock:
            # Joined before it queues: whoever asked during a creation shares its outcome.
            flight = self._join(key)
            lock = flight.locks.get(run)
            if lock is None:
                lock = flight.locks[run] = new_lock()
        async with lock:
            while not flight.done:
                await self._lead_or_wait(key, flight, create)
        return flight.outcome()

    def peek(self, key: Hashable) -> Any:
        """The instance of ``key``, None if there is none. Needs no event loop."""
        instance = self._instances.get(key)
        self._hits += instance is not None
        return instance

    def peek_client(
        self,
        /,
        provider: str,
        model: str,
        *,
        temperature: float | None = None,
        base_url: str | None = None,
        api_key: ApiKey = None,
        timeout: float = DEFAULT_TIMEOUT,
        **options: JSON,
    ) -> LLMClient | None:
        """What :meth:`get` gives for these arguments, None if it would have to be made.

        Needs no event loop.

        Raises:
            InvalidInputError: an argument cannot be used.
        """
        extras = options if timeout == DEFAULT_TIMEOUT else {**options, "timeout": timeout}
        key = client_key(provider, model, temperature, base_url, api_key, extras)
        client: LLMClient | None = self.peek(key)
        return client

    def get_cache_stats(self) -> FactoryStatistics:
        """What the factory has done, and what it holds."""
        with self._lock:
            return FactoryStatistics(
                self._hits,
                self._misses,
                self._creations,
                self._failures,
                self._hand_overs,
                len(self._instances),
            )

    def clear_llm_cache(self) -> int:
        """Forget all instances and statistics; returns how many instances there were.

        A creation under way answers those who asked for it and is not kept.
        """
        with self._lock:
            number = len(self._instances)
            self._generation += 1
            self._instances.clear()
            self._flights.clear()
            self._hits = self._misses = self._creations = self._failures = self._hand_overs = 0
            return number

    # -- a creation

    def _join(self, key: Hashable) -> _Flight:
        self._misses += 1
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(self._generation)
            if key in self._instances:  # created since the look-up without the lock
                flight.done, flight.instance = True, self._instances[key]
                del self._flights[key]
        return flight

    async def _lead_or_wait(
        self, key: Hashable, flight: _Flight, create: Callable[[], Awaitable[Any]]
    ) -> None:
        with self._lock:
            if flight.done:
                return
            leads = not flight.led
            flight.led = True
            if not leads:
                waiter = Waiter()
                flight.waiters.append(waiter)
        if leads:
            await self._lead(key, flight, create)
        else:
            await waiter.wait(lambda: self._leave(flight, waiter))

    def _leave(self, flight: _Flight, waiter: Waiter) -> bool:
        with self._lock:
            if waiter not in flight.waiters:
                return False  # woken already: it has an outcome, or has to create
            flight.waiters.remove(waiter)
            return True

    async def _lead(
        self, key: Hashable, flight: _Flight, create: Callable[[], Awaitable[Any]]
    ) -> None:
        try:
            instance = await create()
        except Exception as error:
            self._land(key, flight, None, _failure(error))
        except BaseException:
            self._hand_over(flight)
            raise
        else:
            self._land(key, flight, instance, None)

    def _land(
        self, key: Hashable, flight: _Flight, instance: Any, error: ClientCreationError | None
    ) -> None:
        with self._lock:
            flight.instance, flight.error, flight.done = instance, error, True
            current = flight.generation == self._generation
            if current:
                self._flights.pop(key, None)
                self._failures += error is not None
                self._creations += error is None
                if error is None:
                    self._instances[key] = instance
            waiters, flight.waiters = flight.waiters, deque()
        wake(waiters)

    def _hand_over(self, flight: _Flight) -> None:
        with self._lock:
            flight.led = False
            self._hand_overs += 1
            # All are woken: a single heir might be cancelled before it runs.
            waiters, flight.waiters = flight.waiters, deque()
        wake(waiters)

    def _let_go(self) -> None:
        """Leave the creations under way to the process that this one was forked from."""
        flights, self._flights = self._flights, {}
        self._generation += 1
        for flight in flights.values():
            self._hand_over(flight)


def _failure(error: Exception) -> ClientCreationError:
    # What others raise may quote a secret; what we raise does not.
    reason = str(error) if isinstance(error, AsyncHistoryError) else type(error).__name__
    failure = ClientCreationError(
        f"the LLM instance could not be made: {reason} (the next call tries again)"
    )
    failure.__cause__ = error
    return failure


_default = LLMFactory()


def default_factory() -> LLMFactory:
    """The process's factory, which conversations use unless they are given another."""
    return _default
