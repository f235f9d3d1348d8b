"""After erase_user nothing of the user is left in any file of the store.

The bytes of the files are searched for canaries: words that stand in what was erased and nowhere
else. A store without files passes, since it has none.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from asynchistory import AsyncHistoryManager, Message, Storage, TailCache, ToolCall
from tests.contract.chats import add, numbers, say, session_ids, texts, usage
from tests.contract.traces import traces

pytestmark = pytest.mark.anyio

USER = "canary-user"
CANARY = "canary-content"


async def assert_erased(history: AsyncHistoryManager, folder: Path) -> None:
    await history.erase_user(USER)
    assert traces(folder, USER, CANARY) == {}
    assert await history.search("canary") == ()


async def live(history: AsyncHistoryManager) -> None:
    """Records, one of them large; a title; metadata; keys; calls; a session id."""
    await history.create_session(
        f"{CANARY}-id", user_id=USER, title=f"{CANARY} title", metadata={CANARY: CANARY}
    )
    await history.append(
        f"{CANARY}-id",
        say(f"{CANARY} text"),
        say(f"{CANARY} " * 20_000),
        ToolCall(name=CANARY, output=CANARY),
        usage(f"{CANARY}-request", 5, model=f"{CANARY}-model"),
        Message.of("user", "x", metadata={"k": CANARY}),
        idempotency_key=f"{CANARY}-key",
    )


async def many(history: AsyncHistoryManager) -> None:
    for number in range(30):
        await history.create_session(f"chat {number}", user_id=USER)
        await add(history, f"chat {number}", *[f"{CANARY} {index}" for index in range(20)])


async def popped(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", user_id=USER)
    await add(history, "chat", "1", CANARY)
    await history.pop("chat", idempotency_key="k")


async def truncated(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", user_id=USER)
    await add(history, "chat", "1", CANARY)
    await history.truncate("chat", 1)


async def replaced(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", user_id=USER)
    await add(history, "chat", CANARY)
    await history.replace("chat", say("new"))


async def renamed(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", user_id=USER, title=CANARY, metadata={"k": CANARY})
    await history.update_session("chat", title="t", metadata={})


async def deleted(history: AsyncHistoryManager) -> None:
    await history.create_session("chat", user_id=USER)
    await history.append("chat", say(CANARY), usage(CANARY, 1))
    await history.delete_session("chat")


async def forked(history: AsyncHistoryManager) -> None:
    await live(history)
    await history.fork(f"{CANARY}-id", f"{CANARY}-fork", at_seq=3)
    await history.truncate(f"{CANARY}-id", 1)
    await history.fork(f"{CANARY}-fork", f"{CANARY}-grandchild", at_seq=2)


async def keyed(history: AsyncHistoryManager) -> None:
    """Keys in and out of their order, some of which another session has too."""
    await history.create_session("chat", user_id=USER)
    for number in (5, 3, 8, 1, 9):
        await history.append("chat", say("x"), idempotency_key=f"{CANARY} {number}")
    async with anyio.create_task_group() as tasks:
        for number in range(20, 40):
            tasks.start_soon(_append, history, f"{CANARY} {number}")
    await history.pop("chat", idempotency_key=f"{CANARY} 2")
    await history.truncate("chat", 3, idempotency_key=f"{CANARY} 7")
    await history.replace("chat", idempotency_key=f"{CANARY} 4")


async def _append(history: AsyncHistoryManager, key: str) -> None:
    await history.append("chat", say("x"), idempotency_key=key)


async def crowded(history: AsyncHistoryManager) -> None:
    """So many, between those of others, that their pages were divided again and again."""
    draw = random.Random(1)
    order = draw.sample(range(1500), 1500)
    async with anyio.create_task_group() as tasks:
        for number in order:
            name, owner = draw.choice([(CANARY, USER), ("else's content", "another-user")])
            padding = "-" * draw.randint(1, 80)
            tasks.start_soon(_enter, history, f"{number:04} {padding} {name}", owner)


async def _enter(history: AsyncHistoryManager, name: str, owner: str) -> None:
    await history.create_session(name, user_id=owner)
    await history.append(name, say("x" * (len(name) * 7 % 300)), idempotency_key=name)


async def handed_over(history: AsyncHistoryManager) -> None:
    """The session was another's, or nobody's, before."""
    await history.create_session("chat")
    await history.append("chat", say(CANARY), usage(CANARY, 1))
    await history.update_session("chat", user_id=USER)


LIVES = [
    live, many, popped, truncated, replaced, renamed, deleted, forked, keyed, crowded, handed_over,
]  # fmt: skip


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
async def test_nothing_of_an_erased_user_is_left_in_the_files(
    history: AsyncHistoryManager, tmp_path: Path, life: Callable[[AsyncHistoryManager], object]
) -> None:
    await history.create_session("other", user_id="other-user")
    await history.append("other", say("other-content"), usage("r", 3))
    await life(history)

    await assert_erased(history, tmp_path)

    owners = {item.user_id for item in await history.list_sessions(limit=10_000)}
    assert owners in ({"other-user"}, {"other-user", "another-user"})
    assert (await history.last("other"))[0].text == "other-content"
    assert (await history.get_token_statistics("other")).total_tokens == 3


async def test_nothing_is_left_after_the_store_was_closed_and_opened_between(
    make_storage: Callable[[], Storage], tmp_path: Path
) -> None:
    async with AsyncHistoryManager(make_storage(), TailCache()) as history:
        await live(history)
    async with AsyncHistoryManager(make_storage(), TailCache()) as history:
        await assert_erased(history, tmp_path)
    assert traces(tmp_path, USER, CANARY) == {}


async def test_nothing_is_left_with_a_second_handle_open(
    make_storage: Callable[[], Storage], tmp_path: Path
) -> None:
    async with (
        AsyncHistoryManager(make_storage(), TailCache()) as history,
        AsyncHistoryManager(make_storage(), TailCache()) as other,
    ):
        await live(history)
        await other.last(f"{CANARY}-id")
        await other.get_token_statistics(group_by="user")

        await assert_erased(history, tmp_path)
        assert await other.search(CANARY) == ()


async def test_what_was_left_for_later_goes_with_the_next_erasure(
    history: AsyncHistoryManager, tmp_path: Path
) -> None:
    await live(history)
    assert (await history.erase_user(USER, scrub=False)).sessions == 1
    assert await session_ids(history) == set()

    await assert_erased(history, tmp_path)


async def test_contents_are_overwritten_where_they_were(
    make_storage: Callable[[], Storage], tmp_path: Path
) -> None:
    # Without scrubbing they stay in a write-ahead log, which goes when the store is closed.
    async with AsyncHistoryManager(make_storage(), TailCache()) as history:
        await history.create_session("chat", user_id=USER)
        await add(history, "chat", *[f"{CANARY} {number}" for number in range(20)])
    async with AsyncHistoryManager(make_storage(), TailCache()) as history:
        await history.erase_user(USER, scrub=False)

    assert traces(tmp_path, CANARY) == {}


async def test_erasing_goes_on_beside_reads_and_writes(
    history: AsyncHistoryManager, tmp_path: Path
) -> None:
    await add(history, "other", *numbers(50))
    await many(history)
    erased = anyio.Event()

    async def write() -> None:
        while not erased.is_set():
            await add(history, "other", "more")
            assert (await texts(history, "other"))[:50] == numbers(50)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        tasks.start_soon(write)
        await assert_erased(history, tmp_path)
        erased.set()


async def test_what_belongs_to_another_by_then_stays(
    history: AsyncHistoryManager, tmp_path: Path
) -> None:
    # The user's name must go, and what the fork of another holds must not.
    await history.create_session("chat", user_id=USER)
    await add(history, "chat", "shared-content", CANARY)
    await history.fork("chat", "fork", at_seq=1)
    await history.update_session("fork", user_id="bob")

    await assert_erased(history, tmp_path)

    assert await texts(history, "fork") == ["shared-content"]


async def test_the_search_for_traces_finds_them(
    history: AsyncHistoryManager, tmp_path: Path, store: str
) -> None:
    await live(history)

    found = traces(tmp_path, USER, CANARY)

    words = {word for held in found.values() for word in held}
    # What a server has in its files is looked for in tests/postgres.
    assert words == ({USER, CANARY} if store == "sqlite" else set())
