"""``asynchistory stats``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from asynchistory.cli.options import Settings, common

if TYPE_CHECKING:
    from asynchistory.manager import AsyncHistoryManager
    from asynchistory.queries import (
        CostStatistics,
        LLMStatistics,
        SessionSummary,
        StoreCounts,
        TokenStatistics,
    )

_GROUPS = ["model", "provider", "day", "session", "user"]


@click.command("stats", short_help="Count conversations, messages, tokens, cost and calls.")
@click.option("--session", metavar="ID|last", help="Only this conversation.")
@click.option("--by", type=click.Choice(_GROUPS), help="Also tokens, cost and calls for each.")
@common
@click.pass_context
def command(ctx: click.Context, session: str | None, by: str | None) -> None:
    """Count conversations, records, messages, tokens, cost and model calls.

    Each model call counts once. What is unknown is counted as unknown, not
    as 0.

    With --json: one object, with sessions, records, record_types, messages,
    roles, tool_calls, tool_results, tokens, costs and llm.
    """
    from asynchistory.cli.output import print_json
    from asynchistory.cli.running import existing_history, run

    settings = ctx.ensure_object(Settings)
    history = existing_history(settings)
    if history is None:
        if session is not None:
            ctx.exit(1)
        from asynchistory.config import open_history

        history = open_history("memory://")  # which has nothing in it
    found = run(history, lambda opened: _count(opened, session, by))
    if settings.json:
        print_json(found)
    else:
        _print(found, by)


async def _count(history: AsyncHistoryManager, name: str | None, by: Any) -> dict[str, Any]:
    from asynchistory.cli.running import find_session

    session_id = None if name is None else (await find_session(history, name)).id
    if session_id is None:
        counts: StoreCounts | SessionSummary = await history.count()
    else:
        counts = await history.get_session_summary(session_id)
    return {
        **({} if session_id is None else {"session_id": session_id}),
        "sessions": getattr(counts, "sessions", 1),
        "records": counts.records,
        "record_types": counts.record_types,
        "messages": counts.record_types.get("message", 0),
        "roles": counts.roles,
        "tool_calls": counts.tool_calls,
        "tool_results": counts.tool_results,
        "tokens": await history.get_token_statistics(session_id, group_by=by),
        "costs": await history.get_cost_statistics(session_id, group_by=by),
        "llm": await history.get_llm_statistics(session_id, group_by=by),
    }


def _print(found: dict[str, Any], by: str | None) -> None:
    from asynchistory.cli.output import bold, dim, figures, one_line

    if "session_id" in found:
        click.echo(f"{bold(one_line(found['session_id']))}\n")
    llm, tokens, costs = found["llm"], found["tokens"], found["costs"]
    figures(
        [
            ("conversations", found["sessions"], ""),
            ("records", found["records"], _kinds(found["record_types"])),
            ("messages", found["messages"], _kinds(found["roles"])),
            ("tool calls", found["tool_calls"], ""),
            ("tool results", found["tool_results"], ""),
            ("model calls", llm.requests, _calls(llm)),
            ("tokens", tokens.total_tokens, _tokens(tokens)),
        ]
    )
    click.echo(dim("cost           ") + _cost(costs))
    if by is not None:
        _print_groups(found, by)


def _kinds(kinds: dict[str, int]) -> str:
    from asynchistory.cli.output import one_line

    ranked = sorted(kinds.items(), key=lambda kind: -kind[1])
    return " · ".join(f"{one_line(name)} {number:,}" for name, number in ranked)


def _calls(found: LLMStatistics) -> str:
    text = f"{found.responses:,} answered"
    if found.mean_response_time is not None:
        text += f" · {found.mean_response_time:.2f} s on average"
    return text if found.requests or found.responses else ""


def _tokens(found: TokenStatistics) -> str:
    known = f"{found.input_tokens:,} in · {found.output_tokens:,} out" if found.calls else ""
    unknown = f"{found.unknown_calls:,} calls unknown" if found.unknown_calls else ""
    return " · ".join(filter(None, (known, unknown)))


def _cost(found: CostStatistics) -> str:
    from asynchistory.cli.output import one_line

    amounts = [
        f"{amounts.total_cost.normalize():f} {one_line(currency)}"
        for currency, amounts in found.currencies.items()
        if amounts.total_cost is not None
    ]
    text = " + ".join(amounts) or "none known"
    return text + (f" · {found.unknown_calls:,} calls unknown" if found.unknown_calls else "")


def _print_groups(found: dict[str, Any], by: str) -> None:
    from asynchistory.cli.output import note, one_line, table

    tokens, costs, llm = (found[kind].groups for kind in ("tokens", "costs", "llm"))
    names = sorted({*tokens, *costs, *llm})
    if not names:
        note(f"No model calls to group by {by}.")
        return
    click.echo()
    rows = [
        [
            one_line(name or "(none)"),
            f"{llm[name].requests:,}" if name in llm else "",
            f"{tokens[name].input_tokens:,}" if name in tokens else "",
            f"{tokens[name].output_tokens:,}" if name in tokens else "",
            _cost(costs[name]) if name in costs else "",
        ]
        for name in names
    ]
    table([by, "requests", "tokens in", "out", "cost"], rows, right=[1, 2, 3])
