"""LLMFactory: one LLM instance a configuration, created exactly once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Self, overload

from anyio import get_current_task

from asynchistory.errors import (
    AsyncHistoryError,
    ClientCreationError,
    ConfigurationError,
)
from asynchistory.forks import in_child, own_lock
from asynchistory.llm.flight import Flight
from asynchistory.llm.instances import Entry, Instances
from asynchistory.llm.key import (
    DEFAULT_TIMEOUT,
    ApiKey,
    Credential,
    Options,
    client_key,
    endpoint,
    finite,
    seal,
)
from asynchistory.llm.port import LLMClient
from asynchistory.llm.providers import build_client
from asynchistory.records import JSON
from asynchistory.runs import (
    Waiter,
    checkpoint_if_cancelled,
    current_run,
    wake,
)

if TYPE_CHECKING:
    import httpx
    import httpx2

_NUMBERS = frozenset((float, int))


class FactoryStatistics(NamedTuple):
    """What a factory has done since it was made or cleared, and what it holds.

    Attributes:
        hits: instances given without waiting.
        misses: callers who found none.
        waits: those of them who joined a creation that was under way.
        creations: instances created.
        failures: creations that raised.
        hand_overs: creations that another caller took over because the first was cancelled.
        evictions: instances let go of because of ``max_entries`` or ``idle_ttl``.
        size: instances held now.
    """

    hits: int
    misses: int
    waits: int
    creations: int
    failures: int
    hand_overs: int
    evictions: int
    size: int


class LLMFactory:
    """Creates each LLM instance once, for all tasks, event loops and threads of the process.

    Three layers keep that promise. A look-up without any lock answers whoever
    comes later. A lock of the running loop's own kind (``asyncio.Lock``,
    ``trio.Lock``) lets one task of each loop through. And between loops and
    threads one of them creates, while the others wait without blocking.

    If the creator is cancelled, another caller creates. If it fails, all who
    asked get the same :class:`~asynchistory.ClientCreationError`, nothing is
    kept, and the next call tries again.

    It need not be closed. What it lets go of stays usable by those who have it.

    Args:
        max_entries: of more instances than this, the least recently used are let go of; None
            for no limit.
        idle_ttl: seconds after its last use that an instance is kept; None for ever.
        clock: what ``idle_ttl`` is measured by, in seconds.
    """

    def __init__(
        self,
        *,
        max_entries: int | None = None,
        idle_ttl: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_entries is not None and (type(max_entries) is not int or max_entries < 1):
            raise ConfigurationError("max_entries must be a number of at least 1, or None")
        if idle_ttl is not None and finite(idle_ttl, "idle_ttl") <= 0:
            raise ConfigurationError("idle_ttl must be more than 0 seconds, or None")
        self._lock = own_lock(self, "_lock")  # never held across an await
        self._held = Instances(max_entries, idle_ttl, clock)
        # What each hit needs.
        self._quick = self._held.by_arguments
        self._bounded = self._held.bounded
        self._flights: dict[Hashable, Flight] = {}
        self._generation = 0
        # Counted without a lock: CPython, with its own, switches threads elsewhere.
        self._hits = 0
        self._misses = self._waits = 0
        self._creations = self._failures = self._hand_overs = 0
        in_child(self, "_let_go")

    def __repr__(self) -> str:
        return f"<LLMFactory of {len(self._held)} instances>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a factory is not pickled; each process has its own, see default_factory()")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

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
            provider: ``openai`` (and all who speak its format), ``scripted``, ``langchain:`` and
                a provider of LangChain's, or one of :func:`register_provider`.
            model: the model's name there.
            temperature: None leaves it to the provider.
            base_url: the endpoint; the provider's own, or its environment variable's, if left out.
            api_key: the secret, or a function that gives it, which may be async and is asked
                for each request; the environment's if left out. A function is told from others
                by identity: give the same one each time.
            timeout: seconds to wait for each piece of an answer.
            options: further fields of each request.

        Raises:
            ClientCreationError: it could not be made; the cause is its ``__cause__``.
            InvalidInputError: an argument cannot be used.
        """
        if not options:
            try:
                # With the type, as True is equal to 1.0 and no temperature.
                kind = temperature.__class__
                entry = self._quick[provider, model, temperature, kind, base_url, api_key, timeout]
                if (timeout is DEFAULT_TIMEOUT or timeout.__class__ in _NUMBERS) and (
                    not self._bounded or self._held.touch(entry)
                ):
                    self._hits += 1
                    return entry.instance  # type: ignore[no-any-return]
            except (KeyError, TypeError):  # not there, or not even hashable
                pass
        api_key, base_url, options = self.sealed(api_key, base_url, options)
        return await self._get(provider, model, temperature, base_url, api_key, timeout, options)

    async def _get(
        self,
        provider: str,
        model: str,
        temperature: float | None,
        base_url: str | None,
        api_key: Credential | None,
        timeout: float,  # noqa: ASYNC109
        options: Options,
    ) -> LLMClient:
        key = client_key(provider, model, temperature, base_url, api_key, options, timeout)

        async def create() -> LLMClient:
            await checkpoint_if_cancelled()
            return await build_client(key, api_key=api_key, timeout=timeout, options=options)

        client: LLMClient = await self.get_or_create(key, create)
        if not options:
            given, kind = api_key and api_key.given, type(temperature)
            spelling = (provider, model, temperature, kind, base_url, given, timeout)
            with self._lock:
                self._held.remember(key, spelling)
        return client

    async def get_or_create(self, key: Hashable, create: Callable[[], Awaitable[Any]]) -> Any:
        """The instance of ``key``; ``await create()`` makes it if there is none.

        Raises:
            ClientCreationError: ``create`` raised; the cause is its ``__cause__``.
            NoEventLoopError: neither asyncio nor trio is running here.
        """
        entry = self._held.find(key)
        if entry is not None:
            self._hits += 1
            return entry.instance
        run = current_run()
        with self._lock:
            # Joined before it queues: whoever asked during a creation shares its outcome.
            flight = self._join(key, get_current_task().id)
            lock = flight.lock(run)
        try:
            async with lock:
                while not flight.done:
                    await self._lead_or_wait(key, flight, create)
        finally:
            self._part(key, flight)
        return flight.outcome()

    @staticmethod
    def sealed(
        api_key: ApiKey, base_url: str | None, options: Mapping[str, JSON]
    ) -> tuple[Credential | None, str | None, Options]:
        """The arguments of :meth:`get` that may hold secrets, as ones that do not show.

        It refuses nothing. Who hands arguments on puts these in their place, so that no
        traceback shows the secrets among its variables.
        """
        return seal(api_key), endpoint(base_url), Options(options)

    def peek(self, key: Hashable) -> Any:
        """The instance of ``key``, None if there is none. Needs no event loop."""
        return self._hit(self._held.find(key))

    def _hit(self, entry: Entry | None) -> Any:
        if entry is None:
            return None
        self._hits += 1
        return entry.instance

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
        entry = None
        if not options and timeout is DEFAULT_TIMEOUT:
            kind = temperature.__class__
            entry = self._held.spelled(
                provider, model, temperature, kind, base_url, api_key, timeout
            )
        if entry is None:
            api_key, base_url, options = self.sealed(api_key, base_url, options)
            key = client_key(provider, model, temperature, base_url, api_key, options, timeout)
            entry = self._held.find(key)
        client: LLMClient | None = self._hit(entry)
        return client

    @overload
    def http_client(
        self, library: Literal["httpx"] = "httpx", *, timeout: float = DEFAULT_TIMEOUT
    ) -> httpx.AsyncClient: ...
    @overload
    def http_client(
        self, library: Literal["httpx2"], *, timeout: float = DEFAULT_TIMEOUT
    ) -> httpx2.AsyncClient: ...
    def http_client(self, library: str = "httpx", *, timeout: float = DEFAULT_TIMEOUT) -> Any:
        """An HTTP client for any event loop and thread, to be given to an SDK.

        Each loop has connections of its own, which are closed when it ends; all clients
        share them, and the proxies that the environment names are honoured. Closing the
        client, as SDKs do, ends its own use and nobody else's.

        Args:
            library: ``httpx2``, which then has to be installed, for an SDK that takes no httpx.
            timeout: seconds for each step of a request.

        Raises:
            ConfigurationError: the library is not installed, or the environment names a proxy
                that cannot be used.
        """
        from asynchistory.llm.http import http_client

        return http_client(timeout, library)

    def get_cache_stats(self) -> FactoryStatistics:
        """What the factory has done, and what it holds."""
        with self._lock:
            self._held.sweep()
            return FactoryStatistics(
                self._hits,
                self._misses,
                self._waits,
                self._creations,
                self._failures,
                self._hand_overs,
                self._held.evictions,
                len(self._held),
            )

    def clear_llm_cache(self) -> int:
        """Forget all instances and statistics; returns how many instances there were.

        A creation under way answers those who asked for it and is not kept.
        """
        return len(self._clear())

    async def aclose(self) -> None:
        """Forget all instances, and close those that have an ``aclose``.

        For who knows that nobody uses them any more. The clients of this package hold nothing
        open and have none. The factory can be used again.
        """
        async with AsyncExitStack() as stack:
            for instance in self._clear():
                close = getattr(instance, "aclose", None)
                if close is not None:
                    stack.push_async_callback(close)

    def _clear(self) -> list[Any]:
        with self._lock:
            self._generation += 1
            self._flights.clear()
            self._hits = self._misses = self._waits = 0
            self._creations = self._failures = self._hand_overs = 0
            return self._held.clear()

    # -- a creation

    def _join(self, key: Hashable, task: int) -> Flight:
        flight = self._flights.get(key)
        if flight is not None and flight.leader == task:
            raise ClientCreationError("making this instance asks for itself, and would never end")
        self._misses += 1
        if flight is None:
            flight = Flight(self._generation)
            entry = self._held.find(key)
            if entry is None:
                self._flights[key] = flight
            else:  # created since the look-up without the lock
                flight.done, flight.instance = True, entry.instance
        else:
            self._waits += 1
        flight.callers += 1
        return flight

    def _part(self, key: Hashable, flight: Flight) -> None:
        with self._lock:
            flight.callers -= 1
            if not flight.callers and self._flights.get(key) is flight:
                # All were cancelled. Left here, it would keep their event loops.
                del self._flights[key]

    async def _lead_or_wait(
        self, key: Hashable, flight: Flight, create: Callable[[], Awaitable[Any]]
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

    def _leave(self, flight: Flight, waiter: Waiter) -> bool:
        with self._lock:
            if waiter not in flight.waiters:
                return False  # woken already: it has an outcome, or has to create
            flight.waiters.remove(waiter)
            return True

    async def _lead(
        self, key: Hashable, flight: Flight, create: Callable[[], Awaitable[Any]]
    ) -> None:
        flight.leader = get_current_task().id
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
        self, key: Hashable, flight: Flight, instance: Any, error: ClientCreationError | None
    ) -> None:
        with self._lock:
            flight.instance, flight.error, flight.done = instance, error, True
            current = flight.generation == self._generation
            if current:
                self._flights.pop(key, None)
                self._failures += error is not None
                self._creations += error is None
                if error is None:
                    self._held.add(key, instance)
            waiters, flight.waiters = flight.waiters, deque()
        wake(waiters)

    def _hand_over(self, flight: Flight) -> None:
        with self._lock:
            flight.led, flight.leader = False, None
            self._hand_overs += flight.callers > 1
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
