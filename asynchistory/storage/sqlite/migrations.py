"""The steps that made the schema what it is."""

from __future__ import annotations

_V1 = """
CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES('epoch', 0);

CREATE TABLE sessions(
    sid INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    user_id TEXT,
    title TEXT,
    metadata TEXT NOT NULL DEFAULT '{}',
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    expires INTEGER,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL DEFAULT 0,
    forked_from INTEGER,
    fork_seq INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX sessions_user ON sessions(user_id) WHERE user_id IS NOT NULL;

-- A rowid with a unique index beside it writes less than a table clustered by (sid, seq).
CREATE TABLE records(
    rowid INTEGER PRIMARY KEY,
    sid INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    type INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    id BLOB NOT NULL,
    body TEXT NOT NULL,
    crc INTEGER NOT NULL
);
CREATE UNIQUE INDEX records_seq ON records(sid, seq);

CREATE TABLE idempotency(
    sid INTEGER NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    PRIMARY KEY(sid, key)
) WITHOUT ROWID;

-- One row a model call, merged from the records that describe it.
CREATE TABLE calls(
    sid INTEGER NOT NULL,
    request TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    day INTEGER NOT NULL,
    requested INTEGER NOT NULL,
    responded INTEGER NOT NULL,
    finish_reason TEXT,
    response_us INTEGER,
    first_token_us INTEGER,
    usage_rank INTEGER NOT NULL,
    input_tokens INTEGER,
    output_tokens INTEGER,
    total_tokens INTEGER,
    cached_tokens INTEGER,
    reasoning_tokens INTEGER,
    priced INTEGER NOT NULL,
    currency TEXT,
    input_cost INTEGER,
    output_cost INTEGER,
    total_cost INTEGER,
    PRIMARY KEY(sid, request)
) WITHOUT ROWID;
"""

_V2 = """
-- A fork rests on another session: its records up to base_seq are that one's.
ALTER TABLE sessions ADD COLUMN base INTEGER;
ALTER TABLE sessions ADD COLUMN base_seq INTEGER NOT NULL DEFAULT 0;
CREATE INDEX sessions_base ON sessions(base) WHERE base IS NOT NULL;
CREATE INDEX sessions_expires ON sessions(expires) WHERE expires IS NOT NULL;

-- Clustered by key, for keys that grow with time; each leads to the one before it of its session.
ALTER TABLE sessions ADD COLUMN last_key TEXT;
CREATE TABLE idempotency_2(
    key TEXT NOT NULL,
    sid INTEGER NOT NULL,
    digest BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    removed BLOB,  -- what a pop took, for the call that tries it again
    prev TEXT,
    PRIMARY KEY(key, sid)
) WITHOUT ROWID;
INSERT INTO idempotency_2
    SELECT key, sid, digest, epoch, first_seq, last_seq, NULL,
        lag(key) OVER (PARTITION BY sid ORDER BY first_seq, key)
    FROM idempotency;
UPDATE sessions SET last_key = (
    SELECT i.key FROM idempotency i WHERE i.sid = sessions.sid
    ORDER BY i.first_seq DESC, i.key DESC LIMIT 1
);
DROP TABLE idempotency;
ALTER TABLE idempotency_2 RENAME TO idempotency;

CREATE INDEX calls_time ON calls(day, provider, model, response_us);

-- What one call adds to sums. Money is in two halves, whose sums cannot pass 64 bits.
CREATE VIEW call_sums AS
    SELECT
        c.sid, c.request, s.id AS session, 'u' || coalesce(s.user_id, '') AS scope,
        c.day, c.provider, c.model,
        coalesce(c.currency, '') AS currency,
        coalesce(c.finish_reason, '') AS reason,
        1 AS calls,
        c.usage_rank > 0 AS known,
        coalesce(c.input_tokens, 0) AS input_tokens,
        coalesce(c.output_tokens, 0) AS output_tokens,
        coalesce(c.total_tokens, 0) AS total_tokens,
        coalesce(c.cached_tokens, 0) AS cached_tokens,
        coalesce(c.reasoning_tokens, 0) AS reasoning_tokens,
        c.requested, c.responded,
        c.input_cost IS NOT NULL AS input_known,
        coalesce(c.input_cost / 1000000, 0) AS input_high,
        coalesce(c.input_cost % 1000000, 0) AS input_low,
        c.output_cost IS NOT NULL AS output_known,
        coalesce(c.output_cost / 1000000, 0) AS output_high,
        coalesce(c.output_cost % 1000000, 0) AS output_low,
        c.total_cost IS NOT NULL AS total_known,
        coalesce(c.total_cost / 1000000, 0) AS total_high,
        coalesce(c.total_cost % 1000000, 0) AS total_low,
        c.response_us IS NOT NULL AS response_known,
        coalesce(c.response_us, 0) AS response_us,
        c.first_token_us IS NOT NULL AS first_token_known,
        coalesce(c.first_token_us, 0) AS first_token_us
    FROM calls c JOIN sessions s USING(sid);

-- The sums a day, kept by the triggers below in whatever transaction changes a call.
CREATE TABLE rollup(
    scope TEXT NOT NULL,  -- '' is everyone; 'u' and a user's id, that user
    day INTEGER NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    currency TEXT NOT NULL,
    reason TEXT NOT NULL,
    calls INTEGER NOT NULL,
    known INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    requested INTEGER NOT NULL,
    responded INTEGER NOT NULL,
    input_known INTEGER NOT NULL,
    input_high INTEGER NOT NULL,
    input_low INTEGER NOT NULL,
    output_known INTEGER NOT NULL,
    output_high INTEGER NOT NULL,
    output_low INTEGER NOT NULL,
    total_known INTEGER NOT NULL,
    total_high INTEGER NOT NULL,
    total_low INTEGER NOT NULL,
    response_known INTEGER NOT NULL,
    response_us INTEGER NOT NULL,
    first_token_known INTEGER NOT NULL,
    first_token_us INTEGER NOT NULL,
    PRIMARY KEY(scope, day, provider, model, currency, reason)
) WITHOUT ROWID;

-- Inserting (sign, call_sums.*) here adds a call to the sums, or takes it off.
CREATE VIEW rollup_change AS SELECT 1 AS sign, * FROM call_sums;
CREATE TRIGGER rollup_changes INSTEAD OF INSERT ON rollup_change BEGIN
    INSERT INTO rollup
    SELECT
        s.scope, NEW.day, NEW.provider, NEW.model, NEW.currency, NEW.reason,
        NEW.sign * NEW.calls, NEW.sign * NEW.known, NEW.sign * NEW.input_tokens, NEW.sign
        * NEW.output_tokens, NEW.sign * NEW.total_tokens, NEW.sign * NEW.cached_tokens,
        NEW.sign * NEW.reasoning_tokens, NEW.sign * NEW.requested, NEW.sign *
        NEW.responded, NEW.sign * NEW.input_known, NEW.sign * NEW.input_high, NEW.sign *
        NEW.input_low, NEW.sign * NEW.output_known, NEW.sign * NEW.output_high, NEW.sign *
        NEW.output_low, NEW.sign * NEW.total_known, NEW.sign * NEW.total_high, NEW.sign *
        NEW.total_low, NEW.sign * NEW.response_known, NEW.sign * NEW.response_us, NEW.sign
        * NEW.first_token_known, NEW.sign * NEW.first_token_us
    FROM (SELECT '' AS scope UNION ALL SELECT NEW.scope) s WHERE true
    ON CONFLICT DO UPDATE SET
        calls = calls + excluded.calls, known = known + excluded.known, input_tokens =
        input_tokens + excluded.input_tokens, output_tokens = output_tokens +
        excluded.output_tokens, total_tokens = total_tokens + excluded.total_tokens,
        cached_tokens = cached_tokens + excluded.cached_tokens, reasoning_tokens =
        reasoning_tokens + excluded.reasoning_tokens, requested = requested +
        excluded.requested, responded = responded + excluded.responded, input_known =
        input_known + excluded.input_known, input_high = input_high + excluded.input_high,
        input_low = input_low + excluded.input_low, output_known = output_known +
        excluded.output_known, output_high = output_high + excluded.output_high,
        output_low = output_low + excluded.output_low, total_known = total_known +
        excluded.total_known, total_high = total_high + excluded.total_high, total_low =
        total_low + excluded.total_low, response_known = response_known +
        excluded.response_known, response_us = response_us + excluded.response_us,
        first_token_known = first_token_known + excluded.first_token_known, first_token_us
        = first_token_us + excluded.first_token_us;
    DELETE FROM rollup WHERE calls = 0 AND scope IN ('', NEW.scope) AND day = NEW.day
        AND provider = NEW.provider AND model = NEW.model;
END;
CREATE TRIGGER calls_added AFTER INSERT ON calls BEGIN
    INSERT INTO rollup_change
    SELECT 1, * FROM call_sums WHERE sid = NEW.sid AND request = NEW.request;
END;
CREATE TRIGGER calls_changing BEFORE UPDATE ON calls BEGIN
    INSERT INTO rollup_change
    SELECT -1, * FROM call_sums WHERE sid = OLD.sid AND request = OLD.request;
END;
CREATE TRIGGER calls_changed AFTER UPDATE ON calls BEGIN
    INSERT INTO rollup_change
    SELECT 1, * FROM call_sums WHERE sid = NEW.sid AND request = NEW.request;
END;
CREATE TRIGGER calls_removed BEFORE DELETE ON calls BEGIN
    INSERT INTO rollup_change
    SELECT -1, * FROM call_sums WHERE sid = OLD.sid AND request = OLD.request;
END;
CREATE TRIGGER owner_changing BEFORE UPDATE OF user_id ON sessions
WHEN OLD.user_id IS NOT NEW.user_id BEGIN
    INSERT INTO rollup_change SELECT -1, * FROM call_sums WHERE sid = OLD.sid;
END;
CREATE TRIGGER owner_changed AFTER UPDATE OF user_id ON sessions
WHEN OLD.user_id IS NOT NEW.user_id BEGIN
    INSERT INTO rollup_change SELECT 1, * FROM call_sums WHERE sid = NEW.sid;
END;
INSERT INTO rollup_change SELECT 1, * FROM call_sums;
"""

#: The step at index n leads from schema n to schema n + 1. None is ever changed: what it made
#: is on people's disks.
MIGRATIONS: tuple[str, ...] = (_V1, _V2)
SCHEMA_VERSION = len(MIGRATIONS)
