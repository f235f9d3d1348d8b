"""The steps that made the schema what it is."""

from __future__ import annotations

from asynchistory.storage.calls import PRICE_FIELDS, USAGE_FIELDS
from asynchistory.storage.postgres.rollup import ROLLUP

_TABLES = """
-- Never given again, not even by a transaction that is rolled back.
CREATE SEQUENCE epochs;
CREATE TABLE probe(one bigint PRIMARY KEY, value bigint NOT NULL);

CREATE TABLE sessions(
    sid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    user_id text COLLATE "C",
    title text,
    metadata text NOT NULL DEFAULT '{}',
    created bigint NOT NULL,
    updated bigint NOT NULL,
    expires bigint,
    epoch bigint NOT NULL,
    seq bigint NOT NULL DEFAULT 0,
    forked_from bigint,
    fork_seq bigint NOT NULL DEFAULT 0,
    -- A fork rests on another session: its records up to base_seq are that one's.
    base bigint,
    base_seq bigint NOT NULL DEFAULT 0,
    -- The first of those that share records, by whose number changes of what they share are locked.
    family bigint,
    -- Until when somebody waits for changes, and is to be told of them.
    watched bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
CREATE INDEX sessions_user ON sessions(user_id, sid) WHERE user_id IS NOT NULL;
CREATE INDEX sessions_base ON sessions(base, base_seq) WHERE base IS NOT NULL;
CREATE INDEX sessions_fork ON sessions(forked_from) WHERE forked_from IS NOT NULL;
CREATE INDEX sessions_expires ON sessions(expires) WHERE expires IS NOT NULL;
CREATE INDEX sessions_created ON sessions(created, sid);
CREATE INDEX sessions_updated ON sessions(updated, sid);

-- rid is the order in which records were written, by which a search finds the newest first.
-- What statistics and filters ask of a body has columns of its own, so that no body is parsed.
CREATE TABLE records(
    sid bigint NOT NULL,
    seq bigint NOT NULL,
    rid bigint GENERATED ALWAYS AS IDENTITY,
    ts bigint NOT NULL,
    crc bigint NOT NULL,
    type smallint NOT NULL,
    tool_calls smallint,
    tool_results smallint,
    id bytea NOT NULL,
    role text,
    model text,
    body text NOT NULL,
    PRIMARY KEY(sid, seq)
);
CREATE INDEX records_rid ON records(rid);

CREATE TABLE idempotency(
    sid bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    epoch bigint NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    removed bytea,  -- what a pop took, for the call that tries it again
    PRIMARY KEY(sid, key)
);

-- One row a model call, merged from the records that describe it.
CREATE TABLE calls(
    sid bigint NOT NULL,
    request text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    day bigint NOT NULL,
    requested bigint NOT NULL,
    responded bigint NOT NULL,
    finish_reason text COLLATE "C",
    response_us bigint,
    first_token_us bigint,
    usage_rank bigint NOT NULL,
    input_tokens bigint,
    output_tokens bigint,
    total_tokens bigint,
    cached_tokens bigint,
    reasoning_tokens bigint,
    priced bigint NOT NULL,
    currency text COLLATE "C",
    input_cost bigint,
    output_cost bigint,
    total_cost bigint,
    PRIMARY KEY(sid, request)
);
CREATE INDEX calls_time ON calls(day, provider, model, response_us);

CREATE FUNCTION now_us() RETURNS bigint LANGUAGE sql VOLATILE AS
    'SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint';
"""


#: How a further record of a call changes what is known of it: see ``calls.merge``.
_BETTER = "excluded.usage_rank > 0 AND excluded.usage_rank >= c.usage_rank"
MERGE = ", ".join(
    [
        "provider = CASE WHEN excluded.requested > 0 THEN excluded.provider ELSE c.provider END",
        "model = CASE WHEN excluded.requested > 0 THEN excluded.model ELSE c.model END",
        "day = least(c.day, excluded.day)",
        "requested = greatest(c.requested, excluded.requested)",
        "responded = greatest(c.responded, excluded.responded)",
        "priced = greatest(c.priced, excluded.priced)",
        "usage_rank = greatest(c.usage_rank, excluded.usage_rank)",
        *(
            f"{name} = coalesce(excluded.{name}, c.{name})"
            for name in ("finish_reason", "response_us", "first_token_us")
        ),
        *(
            f"{name} = CASE WHEN {_BETTER} THEN excluded.{name} ELSE c.{name} END"
            for name in USAGE_FIELDS
        ),
        *(
            f"{name} = CASE WHEN excluded.priced > 0 THEN excluded.{name} ELSE c.{name} END"
            for name in PRICE_FIELDS
        ),
    ]
)

_LOCK = """\
    LOOP
        SELECT coalesce(array_agg(l.id), '{}'), coalesce(bool_or(l.watched > moment), false)
        INTO locked, watched FROM (
            SELECT s.id, s.watched FROM sessions s WHERE s.id = ANY(names)
            ORDER BY s.id FOR NO KEY UPDATE
        ) l;
        EXIT WHEN cardinality(locked) = cardinality(names);
        missing := ARRAY(
            SELECT m.id FROM unnest(creatable) m(id) WHERE m.id <> ALL(locked) ORDER BY 1
        );
        EXIT WHEN cardinality(missing) = 0;
        INSERT INTO sessions(id, created, updated, epoch)
            SELECT m.id, moment, moment, nextval('epochs') FROM unnest(missing) m(id)
            ON CONFLICT DO NOTHING;
    END LOOP;"""
_INSERT_CALLS = """\
        INSERT INTO calls AS c
            SELECT sids[f.batch], f.request, f.provider, f.model, f.day, f.requested, f.responded,
                f.finish_reason, f.response_us, f.first_token_us, f.usage_rank, f.input_tokens,
                f.output_tokens, f.total_tokens, f.cached_tokens, f.reasoning_tokens, f.priced,
                f.currency, f.input_cost, f.output_cost, f.total_cost
            FROM jsonb_to_recordset(facts) AS f(
                batch bigint, request text, provider text, model text, day bigint,
                requested bigint, responded bigint, finish_reason text, response_us bigint,
                first_token_us bigint, usage_rank bigint, input_tokens bigint,
                output_tokens bigint, total_tokens bigint, cached_tokens bigint,
                reasoning_tokens bigint, priced bigint, currency text, input_cost bigint,
                output_cost bigint, total_cost bigint
            )"""
_NOTIFY = """\
        PERFORM pg_notify(current_schema(), s.id) FROM sessions s
        WHERE s.id = ANY(names) AND s.watched > moment;"""

#: A group of appends, in one statement and so one round trip. First the rows of its sessions are
#: locked, in an order that all groups keep; what comes then sees all that was committed before.
_APPEND = f"""
CREATE FUNCTION append(
    names text[], creatable text[],
    b_id text[], b_count bigint[], b_expected bigint[], b_key text[], b_digest bytea[],
    r_batch bigint[], r_number bigint[], r_type bigint[], r_ts bigint[], r_id bytea[],
    r_body text[], r_crc bigint[], r_role text[], r_model text[], r_calls bigint[],
    r_results bigint[], facts jsonb, keyed boolean
) RETURNS TABLE(
    o_epoch bigint, o_seq bigint, o_start bigint, o_fine boolean,
    o_known bytea, o_epoch_then bigint, o_first bigint, o_last bigint
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    moment bigint := now_us();
    locked text[];
    missing text[];
    watched boolean;
    sids bigint[]; epochs bigint[]; seqs bigint[]; starts bigint[]; fines boolean[];
    knowns bytea[]; epochs_then bigint[]; firsts bigint[]; lasts bigint[];
BEGIN
{_LOCK}
    WITH judged AS (
        SELECT g.*, s.sid, s.epoch, coalesce(s.seq, 0) AS seq,
            k.digest AS known, k.epoch AS epoch_then, k.first_seq, k.last_seq,
            s.sid IS NOT NULL AND k.sid IS NULL
                AND (g.expected IS NULL OR g.expected = s.seq) AS fine
        FROM unnest(b_id, b_count, b_expected, b_key, b_digest)
            WITH ORDINALITY AS g(id, count, expected, key, digest, place)
            LEFT JOIN sessions s ON s.id = g.id
            LEFT JOIN idempotency k ON k.sid = s.sid AND k.key = g.key
    ), placed AS (
        SELECT j.*, (j.seq + coalesce(
            sum(j.count) FILTER (WHERE j.fine) OVER (
                PARTITION BY j.id ORDER BY j.place
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), 0))::bigint AS start
        FROM judged j
    )
    SELECT array_agg(p.sid ORDER BY p.place), array_agg(p.epoch ORDER BY p.place),
        array_agg(p.seq ORDER BY p.place), array_agg(p.start ORDER BY p.place),
        array_agg(p.fine ORDER BY p.place), array_agg(p.known ORDER BY p.place),
        array_agg(p.epoch_then ORDER BY p.place), array_agg(p.first_seq ORDER BY p.place),
        array_agg(p.last_seq ORDER BY p.place)
    INTO sids, epochs, seqs, starts, fines, knowns, epochs_then, firsts, lasts FROM placed p;

    -- By their places in these arrays, and not by a join: it takes as long as there are records.
    INSERT INTO records(sid, seq, ts, crc, type, tool_calls, tool_results, id, role, model, body)
        SELECT sids[r.batch], starts[r.batch] + r.number, r.ts, r.crc, r.type, r.calls, r.results,
            r.id, r.role, r.model, r.body
        FROM unnest(
            r_batch, r_number, r_type, r_ts, r_id, r_body, r_crc, r_role, r_model, r_calls,
            r_results
        ) r(batch, number, type, ts, id, body, crc, role, model, calls, results)
        WHERE fines[r.batch];
    UPDATE sessions s SET seq = t.seq, updated = greatest(s.updated, moment)
        FROM (
            SELECT p.sid, max(p.start + p.count) AS seq
            FROM unnest(sids, starts, b_count, fines) p(sid, start, count, fine)
            WHERE p.fine GROUP BY p.sid
        ) t WHERE s.sid = t.sid;
    IF keyed THEN
        INSERT INTO idempotency(sid, key, digest, epoch, first_seq, last_seq)
            SELECT p.sid, p.key, p.digest, p.epoch, p.start + 1, p.start + p.count
            FROM unnest(sids, b_key, b_digest, epochs, starts, b_count, fines)
                p(sid, key, digest, epoch, start, count, fine)
            WHERE p.fine AND p.key IS NOT NULL;
    END IF;
    IF facts IS NOT NULL THEN
{_INSERT_CALLS} WHERE fines[f.batch]
            ON CONFLICT (sid, request) DO UPDATE SET {MERGE};
    END IF;
    IF watched THEN
{_NOTIFY}
    END IF;
    RETURN QUERY SELECT * FROM unnest(
        epochs, seqs, starts, fines, knowns, epochs_then, firsts, lasts
    );
END $$;
"""

#: An update that changes nothing in any index is several times cheaper (a heap-only tuple), and an
#: append changes ``updated``. So what is indexed is the minute of it, and who lists sessions sorts
#: those of one minute. https://www.postgresql.org/docs/current/storage-hot.html
_MINUTES = """
ALTER TABLE sessions ADD COLUMN minute bigint GENERATED ALWAYS AS (updated / 60000000) STORED;
DROP INDEX sessions_updated;
CREATE INDEX sessions_minute ON sessions(minute);
"""

#: Appends without keys and expectations, of which none can be refused. Plans are kept from now on:
#: to plan anew for the sizes of each group took half of the time of a single append.
_APPEND_PLAIN = f"""
ALTER FUNCTION append SET plan_cache_mode = force_generic_plan;

CREATE FUNCTION append_plain(
    names text[], counts bigint[],
    r_place bigint[], r_after bigint[], r_type bigint[], r_ts bigint[], r_id bytea[],
    r_body text[], r_crc bigint[], r_role text[], r_model text[], r_calls bigint[],
    r_results bigint[], facts jsonb
) RETURNS TABLE(o_epoch bigint, o_seq bigint) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    moment bigint := now_us();
    creatable text[] := names;
    locked text[];
    missing text[];
    watched boolean;
    sids bigint[]; epochs bigint[]; seqs bigint[];
BEGIN
{_LOCK}
    WITH changed AS (
        UPDATE sessions s SET seq = s.seq + n.count, updated = greatest(s.updated, moment)
        FROM unnest(names, counts) WITH ORDINALITY n(id, count, place)
        WHERE s.id = n.id
        RETURNING n.place, s.sid, s.epoch, s.seq
    )
    SELECT array_agg(c.sid ORDER BY c.place), array_agg(c.epoch ORDER BY c.place),
        array_agg(c.seq ORDER BY c.place)
    INTO sids, epochs, seqs FROM changed c;

    INSERT INTO records(sid, seq, ts, crc, type, tool_calls, tool_results, id, role, model, body)
        SELECT sids[r.place], seqs[r.place] - r.after, r.ts, r.crc, r.type, r.calls, r.results,
            r.id, r.role, r.model, r.body
        FROM unnest(
            r_place, r_after, r_type, r_ts, r_id, r_body, r_crc, r_role, r_model, r_calls, r_results
        ) r(place, after, type, ts, id, body, crc, role, model, calls, results);
    IF facts IS NOT NULL THEN
{_INSERT_CALLS}
            ON CONFLICT (sid, request) DO UPDATE SET {MERGE};
    END IF;
    IF watched THEN
{_NOTIFY}
    END IF;
    RETURN QUERY SELECT * FROM unnest(epochs, seqs);
END $$;
"""

#: The step at index n leads from schema n to schema n + 1. None is ever changed: what it made
#: is in people's databases.
MIGRATIONS: tuple[str, ...] = (_TABLES + ROLLUP + _APPEND, _MINUTES, _APPEND_PLAIN)
SCHEMA_VERSION = len(MIGRATIONS)
