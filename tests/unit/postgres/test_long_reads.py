"""Reads of the PostgreSQL store that take more than one piece."""

from __future__ import annotations

import pytest

from asynchistory import AsyncHistoryManager
from tests.contract.archiving import say
from tests.postgres import direct

pytestmark = pytest.mark.anyio

#: More records, and more sessions, than are looked at at first.
RECORDS, SESSIONS = 350, 1_200


async def numbers(history: AsyncHistoryManager, **query: object) -> list[int]:
    return [hit.record.seq for hit in await history.search("needle", **query)]  # type: ignore[arg-type]


@pytest.mark.parametrize("session_id", [None, "chat"])
async def test_a_search_goes_on_until_it_has_found_what_is_rare(
    history: AsyncHistoryManager, session_id: str | None
) -> None:
    # Records that are not of ASCII alone PostgreSQL cannot leave out.
    hay = [say(f"hay ü {number}") for number in range(RECORDS)]
    await history.append("chat", say("a needle"), *hay, say("needles"), *hay[:150])

    found = await numbers(history, session_id=session_id, limit=5)

    assert found == [RECORDS + 2, 1]


@pytest.mark.parametrize("session_id", [None, "chat"])
async def test_the_best_hits_are_those_of_all_records(
    history: AsyncHistoryManager, session_id: str | None
) -> None:
    plain = [say(f"needle in the hay {number}") for number in range(RECORDS)]
    best = [say("needle needle needle"), say("needle needle")]
    await history.append("chat", best[0], *plain[:200], best[1], *plain[200:])

    found = await numbers(history, session_id=session_id, limit=2, order="rank")

    assert found == [1, 202]


async def test_sessions_of_a_metadata_are_found_among_many(
    history: AsyncHistoryManager, url: str
) -> None:
    with direct(url) as db:
        db.execute(
            "INSERT INTO sessions(id, metadata, created, updated, epoch) SELECT 's' || g, "
            """CASE WHEN mod(g, 400) = 1 THEN '{"rare": true}' ELSE '{"rare": 1}' END, """
            "g, g, nextval('epochs') FROM generate_series(1, %s) g",
            (SESSIONS,),
        )

    for order, names in (
        ("created", ["s1", "s401", "s801"]),
        ("updated", ["s801", "s401", "s1"]),
    ):
        found: list[str] = []
        after = None
        while True:
            page = await history.list_sessions(
                metadata={"rare": True},
                order=order,  # type: ignore[arg-type]
                limit=2,
                after=after,
            )
            found += [session.id for session in page]
            if (after := page.next) is None:
                break
        assert found == names


async def test_a_full_page_of_a_metadata_reads_no_further(
    history: AsyncHistoryManager, url: str
) -> None:
    with direct(url) as db:
        db.execute(
            "INSERT INTO sessions(id, metadata, created, updated, epoch) SELECT 's' || g, "
            """'{"team": ' || mod(g, 2) || '}', g, g, nextval('epochs') """
            "FROM generate_series(1, %s) g",
            (SESSIONS,),
        )
        # What lies beyond it would not even be JSON.
        db.execute("UPDATE sessions SET metadata = 'x' WHERE sid <= %s", (SESSIONS // 2,))

    page = await history.list_sessions(metadata={"team": 1}, limit=249)

    assert [session.id for session in page][:2] == ["s1199", "s1197"]
    assert len(page.sessions) == 249
    assert page.next is not None


async def test_a_check_of_more_than_is_looked_at_at_once_leaves_nothing_out(
    history: AsyncHistoryManager, url: str
) -> None:
    for name in ("one", "two", "three"):
        await history.append(name, *[say("x") for _ in range(2_000)])

    with direct(url) as db:
        db.execute(
            "INSERT INTO sessions(id, created, updated, epoch) "
            "SELECT 's' || g, g, g, nextval('epochs') FROM generate_series(1, %s) g",
            (SESSIONS,),
        )

    found = await history.verify()
    assert (found.ok, found.sessions, found.records) == (True, SESSIONS + 3, 6_000)

    with direct(url) as db:
        db.execute("UPDATE records SET body = '{}' WHERE seq = 2000")
    found = await history.verify()
    assert [(item.session_id, item.seq) for item in found.damaged] == [
        ("one", 2_000),
        ("two", 2_000),
        ("three", 2_000),
    ]
