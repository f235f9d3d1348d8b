"""The contract of counting: sums that the store makes."""

from __future__ import annotations

from decimal import Decimal

from asynchistory.manager import AsyncHistoryManager
from asynchistory.records import LLMResponse, Message, ToolCallPart, ToolResultPart, Usage
from asynchistory.testing.contract.base import Contract, call, say


class Counting(Contract):
    """What statistics promise."""

    async def test_each_call_counts_once(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", *call("r1", tokens=5))
        await history.append("chat", *call("r1", tokens=6)[2:])

        found = await history.get_token_statistics(group_by=None)

        assert (found.calls, found.input_tokens, found.total_tokens) == (1, 6, 7)

    async def test_groups(self, history: AsyncHistoryManager) -> None:
        await history.create_session("a", user_id="ann")
        await history.create_session("b", user_id="bob")
        await history.append("a", *call("r1", model="x", tokens=1))
        await history.append("b", *call("r1", model="y", tokens=2), *call("r2", model="y"))

        by_model = await history.get_token_statistics(group_by="model")
        by_user = await history.get_token_statistics(group_by="user")
        of_session = await history.get_token_statistics("b", group_by="session")

        assert {name: group.calls for name, group in by_model.groups.items()} == {"x": 1, "y": 2}
        assert {name: group.input_tokens for name, group in by_user.groups.items()} == {
            "ann": 1,
            "bob": 12,
        }
        assert (of_session.calls, list(of_session.groups)) == (2, ["b"])

    async def test_a_new_owner_takes_the_figures_along(self, history: AsyncHistoryManager) -> None:
        await history.create_session("chat", user_id="ann")
        await history.append("chat", *call("r1"))

        await history.update_session("chat", user_id="bob")

        found = await history.get_cost_statistics(group_by="user")
        assert found.groups.keys() == {"bob"}

    async def test_money_is_exact(self, history: AsyncHistoryManager) -> None:
        for number in range(10):
            await history.append("chat", *call(f"r{number}", price="0.000000000001"))
        await history.append("chat", *call("large", price="8999999"))

        found = await history.get_cost_statistics()

        assert found.currencies["USD"].total_cost == Decimal("8999999.00000000001")
        assert found.calls == 11

    async def test_unknown_is_not_zero(self, history: AsyncHistoryManager) -> None:
        await history.append("chat", LLMResponse(request_id="r", provider="p", model="m"))

        tokens = await history.get_token_statistics()
        costs = await history.get_cost_statistics()
        llm = await history.get_llm_statistics()

        assert (tokens.calls, tokens.unknown_calls) == (0, 1)
        assert (costs.calls, costs.unknown_calls, costs.currencies) == (0, 1, {})
        assert (llm.responses, llm.mean_response_time) == (1, None)

    async def test_times_and_ends(self, history: AsyncHistoryManager) -> None:
        for number, reason in enumerate(("stop", "stop", "length"), 1):
            await history.append(
                "chat",
                LLMResponse(
                    request_id=f"r{number}",
                    provider="p",
                    model="m",
                    finish_reason=reason,
                    response_time=float(number),
                    usage=Usage(output_tokens=number),
                ),
            )

        found = await history.get_llm_statistics()

        assert found.finish_reasons == {"length": 1, "stop": 2}
        assert (found.mean_response_time, found.max_response_time) == (2.0, 3.0)

    async def test_counts(self, history: AsyncHistoryManager) -> None:
        asked = Message(role="assistant", parts=(ToolCallPart(id="1", name="f"),))
        told = Message(role="tool", parts=(ToolResultPart(id="1"),))
        await history.append("chat", say("one"), asked, told, *call("r1"))
        await history.fork("chat", "fork")

        counts = await history.count()
        summary = await history.get_session_summary("fork")

        assert (counts.sessions, counts.records) == (2, 7)
        assert counts.roles == {"assistant": 1, "tool": 1, "user": 1}
        assert (counts.tool_calls, counts.tool_results) == (1, 1)
        assert counts.record_types["message"] == 3
        assert summary.records == 7
