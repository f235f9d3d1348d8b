"""The sums a day, which triggers keep: their part of the schema.

A row of everyone's sums would be one that all writers wait for. So each group of
sums has up to :data:`SLOTS` rows, of which a connection uses one; a sum over
them is what is read.
"""

from __future__ import annotations

SLOTS = 16
#: What sums are kept for, beside whose they are.
GROUP = ("day", "provider", "model", "currency", "reason")
SUMS = (
    "calls",
    "known",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "requested",
    "responded",
    "input_known",
    "input_high",
    "input_low",
    "output_known",
    "output_high",
    "output_low",
    "total_known",
    "total_high",
    "total_low",
    "response_known",
    "response_us",
    "first_token_known",
    "first_token_us",
)

_GROUP = ", ".join(GROUP)
_TEXT = ("provider", "model", "currency", "reason")
_COLUMNS = ",\n    ".join(
    f'{name} text COLLATE "C" NOT NULL' if name in _TEXT else f"{name} bigint NOT NULL"
    for name in GROUP
)
_SUM_COLUMNS = ",\n    ".join(f"{name} bigint NOT NULL" for name in SUMS)


def _money(name: str) -> str:
    # In two halves, whose sums fit 64 bits. Division cuts towards zero, and so does %.
    cost = f"c.{name}_cost"
    return (
        f"(({cost} IS NOT NULL)::int)::bigint AS {name}_known, "
        f"coalesce({cost} / 1000000, 0) AS {name}_high, "
        f"coalesce({cost} % 1000000, 0) AS {name}_low"
    )


def call_sums(source: str) -> str:
    """What each call of ``source`` adds to sums."""
    tokens = ("input", "output", "total", "cached", "reasoning")
    counted = ", ".join(f"coalesce(c.{name}_tokens, 0) AS {name}_tokens" for name in tokens)
    return f"""
    SELECT c.sid, c.request, s.id AS session, 'u' || coalesce(s.user_id, '') AS scope,
        c.day, c.provider, c.model,
        coalesce(c.currency, '') AS currency, coalesce(c.finish_reason, '') AS reason,
        1::bigint AS calls, ((c.usage_rank > 0)::int)::bigint AS known, {counted},
        c.requested, c.responded, {_money("input")}, {_money("output")}, {_money("total")},
        ((c.response_us IS NOT NULL)::int)::bigint AS response_known,
        coalesce(c.response_us, 0) AS response_us,
        ((c.first_token_us IS NOT NULL)::int)::bigint AS first_token_known,
        coalesce(c.first_token_us, 0) AS first_token_us
    FROM {source} c JOIN sessions s USING(sid)"""


def _change(parts: str) -> str:
    """Add the rows of ``parts`` (sign, and what of call_sums) to the sums, in a fixed order."""
    sums = ", ".join(f"sum(p.sign * p.{name})::bigint" for name in SUMS)
    new = ", ".join(f"{name} = r.{name} + excluded.{name}" for name in SUMS)
    return f"""
    INSERT INTO rollup AS r(scope, {_GROUP}, slot, {", ".join(SUMS)})
    SELECT w.scope, {_GROUP}, pg_backend_pid() % {SLOTS}, {sums}
    FROM ({parts}) p CROSS JOIN LATERAL (VALUES (''), (p.scope)) w(scope)
    GROUP BY w.scope, {_GROUP} ORDER BY w.scope, {_GROUP}
    ON CONFLICT (scope, {_GROUP}, slot) DO UPDATE SET {new};"""


def _part(sign: int, source: str) -> str:
    return f"SELECT {sign} AS sign, n.* FROM ({call_sums(source)}) n"


ROLLUP = f"""
CREATE VIEW call_sums AS {call_sums("calls")};

CREATE TABLE rollup(
    scope text COLLATE "C" NOT NULL,  -- '' is everyone; 'u' and a user's id, that user
    {_COLUMNS},
    slot bigint NOT NULL,
    {_SUM_COLUMNS},
    PRIMARY KEY(scope, {_GROUP}, slot)
) WITH (fillfactor = 70);

CREATE FUNCTION calls_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added) THEN {_change(_part(1, "added"))} END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION calls_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added) THEN
        {_change(_part(-1, "removed") + " UNION ALL " + _part(1, "added"))}
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION calls_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM removed) THEN {_change(_part(-1, "removed"))} END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER calls_inserted AFTER INSERT ON calls
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION calls_inserted();
CREATE TRIGGER calls_updated AFTER UPDATE ON calls
    REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION calls_updated();
CREATE TRIGGER calls_deleted AFTER DELETE ON calls
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION calls_deleted();

-- A new owner takes the calls along.
CREATE FUNCTION owner_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    {
    _change(
        "SELECT v.sign, n.sid, n.request, n.session, 'u' || coalesce(v.owner, '') AS scope, "
        + ", ".join(f"n.{name}" for name in (*GROUP, *SUMS))
        + " FROM call_sums n CROSS JOIN LATERAL "
        "(VALUES (-1, OLD.user_id), (1, NEW.user_id)) v(sign, owner) WHERE n.sid = NEW.sid"
    ).replace("(VALUES (''), (p.scope)) w(scope)", "(VALUES (p.scope)) w(scope)")
}
    RETURN NULL;
END $$;
CREATE TRIGGER owner_changed AFTER UPDATE OF user_id ON sessions
    FOR EACH ROW WHEN (OLD.user_id IS DISTINCT FROM NEW.user_id)
    EXECUTE FUNCTION owner_changed();
"""
