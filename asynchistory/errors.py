"""Every error that asynchistory raises.

Messages name the remedy. They carry ids, sizes and types, never the content
of a message and never a secret.

::

    AsyncHistoryError
    ├── InvalidInputError (ValueError)   the caller's data or arguments
    │   ├── InvalidRecordError           a record that is not plain JSON of its type
    │   │   └── RecordTooLargeError      more than 16 MiB or 200 levels deep
    │   ├── InvalidSessionIdError        not 1 to 512 bytes of UTF-8
    │   ├── InvalidQueryError            a negative limit, a malformed cursor, ...
    │   ├── ArchiveError                 a line of an export that cannot be read
    │   ├── BackupExistsError            a backup would overwrite a file
    │   └── ConfigurationError           an unknown URL, a contradictory setting
    ├── SessionNotFoundError (LookupError)
    ├── CheckpointNotFoundError (LookupError)
    ├── SessionExistsError
    │   └── SessionDiffersError          an import met the same id with other contents
    ├── ConflictError                    the session is not as the caller believed
    │   ├── SequenceConflictError        ``expected_seq`` did not hold
    │   ├── IdempotencyMismatchError     a key used again with other content
    │   └── EpochChangedError            a cursor or watch from before a truncate or delete
    ├── StorageError                     the store could not do its work
    │   ├── StorageUnavailableError      cannot be opened, read or written
    │   ├── BusyError                    locked by another process past the deadline
    │   ├── ForeignDatabaseError         the file is not an asynchistory database
    │   ├── NewerSchemaError             written by a newer version of asynchistory
    │   ├── CorruptRecordError           a checksum does not match (``strict=True``)
    │   ├── UnsupportedError             this kind of store cannot do it
    │   └── OutcomeUnknownError          the write may or may not have happened
    ├── LLMError                         a model could not be reached, or did not answer well
    │   ├── ClientCreationError          an LLM instance could not be made
    │   ├── LLMConnectionError           the server could not be reached, or hung up
    │   ├── LLMTimeoutError              it did not answer in time (or says so: 408, 504)
    │   ├── LLMAuthenticationError       it does not accept the key (401, 403)
    │   ├── LLMRateLimitError            too many requests (429)
    │   │   └── LLMQuotaError            no credit left, or a limit of spending reached (429, 402)
    │   ├── LLMRequestError              it does not accept the request (other 4xx)
    │   ├── LLMServerError               it failed (5xx)
    │   │   └── LLMOverloadedError       it has too much to do (529)
    │   └── LLMResponseError             its answer is malformed or cut off
    └── LifecycleError (RuntimeError)    used at the wrong time or place
        ├── NotOpenError                 used outside ``async with``
        ├── LoopThreadError              a sync call that would wait for its own event loop
        ├── BridgeClosedError            a sync call while the interpreter exits
        └── NoEventLoopError             neither asyncio nor trio is running here
"""

from __future__ import annotations

from typing import NamedTuple


class AsyncHistoryError(Exception):
    """The base of every error that this library raises on purpose."""


class InvalidInputError(AsyncHistoryError, ValueError):
    """The caller's data or arguments cannot be accepted. Nothing was written."""


class InvalidRecordError(InvalidInputError):
    """A record is not plain JSON of its type. Nothing was written."""


class RecordTooLargeError(InvalidRecordError):
    """A record exceeds 16 MiB as JSON, or nests more than 200 levels deep."""


class InvalidSessionIdError(InvalidInputError):
    """A session id is not 1 to 512 bytes of UTF-8."""


class InvalidQueryError(InvalidInputError):
    """A query's limit, offset, time or cursor cannot be used."""


class ArchiveError(InvalidInputError):
    """A line of an export is malformed, damaged or of a newer version.

    Attributes:
        line: the number of the line, from 1.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line


class BackupExistsError(InvalidInputError):
    """Where a backup was to be written there is a file, which was not touched."""


class ConfigurationError(InvalidInputError):
    """A URL or setting is unknown or contradicts one already in use."""


class SessionNotFoundError(AsyncHistoryError, LookupError):
    """No session has this id.

    Attributes:
        session_id: the id that was asked for.
    """

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"no session {session_id!r}; append to it or call create_session() first, "
            "or look for its id with list_sessions()"
        )
        self.session_id = session_id


class CheckpointNotFoundError(AsyncHistoryError, LookupError):
    """The session has no checkpoint of this name.

    Attributes:
        session_id: the session.
        name: the name that was asked for.
    """

    def __init__(self, session_id: str, name: str) -> None:
        super().__init__(
            f"session {session_id!r} has no checkpoint {name!r}; "
            "list_checkpoints() lists those that it has"
        )
        self.session_id = session_id
        self.name = name


class SessionExistsError(AsyncHistoryError):
    """A session with this id exists already.

    Attributes:
        session_id: the id that was to be created.
    """

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"session {session_id!r} exists; choose another id, or get it with get_session() "
            "or create_session(exist_ok=True)"
        )
        self.session_id = session_id


class SessionDiffersError(SessionExistsError):
    """An import met a session with the same id and other contents. It was not touched.

    Attributes:
        session_id: the session.
    """

    def __init__(self, session_id: str) -> None:
        AsyncHistoryError.__init__(
            self,
            f"session {session_id!r} exists with other records or fields; delete it first, import "
            "into another store, or pass exist_ok=True to leave it as it is",
        )
        self.session_id = session_id


class ConflictError(AsyncHistoryError):
    """The session is not in the state that the caller believed. Nothing was written."""


class SequenceConflictError(ConflictError):
    """``expected_seq`` is not the session's newest seq.

    Attributes:
        session_id: the session.
        expected: the seq that the caller gave.
        actual: the seq of the session's newest record (0 for none).
    """

    def __init__(self, session_id: str, expected: int, actual: int) -> None:
        super().__init__(
            f"session {session_id!r} stands at seq {actual}, not at the expected {expected}; "
            "read what was added and try again, or append without expected_seq"
        )
        self.session_id = session_id
        self.expected = expected
        self.actual = actual


class IdempotencyMismatchError(ConflictError):
    """An idempotency key was used before in this session, with other content.

    Attributes:
        session_id: the session.
        idempotency_key: the key.
    """

    def __init__(self, session_id: str, idempotency_key: str) -> None:
        super().__init__(
            f"idempotency key {idempotency_key!r} of session {session_id!r} was used before "
            "with other content; use a new key for new content"
        )
        self.session_id = session_id
        self.idempotency_key = idempotency_key


class EpochChangedError(ConflictError):
    """A cursor, checkpoint or watch is from before a truncate, replace or deletion.

    Attributes:
        session_id: the session.
    """

    def __init__(
        self, session_id: str, what: str = "this cursor was made; start again without a cursor"
    ) -> None:
        super().__init__(f"session {session_id!r} was rewritten since {what}")
        self.session_id = session_id


class StorageError(AsyncHistoryError):
    """The store could not do its work."""


class StorageUnavailableError(StorageError):
    """The store cannot be opened, read or written (permissions, a full disk, ...)."""


class BusyError(StorageError):
    """Another process held the database's write lock past the deadline. Nothing was written."""


class ForeignDatabaseError(StorageError):
    """The file exists and is not an asynchistory database. It was not touched."""


class NewerSchemaError(StorageError):
    """The database was written by a newer asynchistory. It was not touched.

    Attributes:
        found: the schema version of the database.
        supported: the newest schema version that this installation knows.
    """

    def __init__(self, found: int, supported: int) -> None:
        super().__init__(
            f"the database has schema {found}, this asynchistory knows up to {supported}; "
            "upgrade asynchistory (pip install -U asynchistory)"
        )
        self.found = found
        self.supported = supported


class CorruptRecordError(StorageError):
    """A stored record is damaged and the read was ``strict``.

    Attributes:
        session_id: the session.
        seq: the record's place in it.
    """

    def __init__(self, session_id: str, seq: int, reason: str) -> None:
        super().__init__(
            f"record {seq} of session {session_id!r} is damaged ({reason}); "
            "read without strict=True to get the others"
        )
        self.session_id = session_id
        self.seq = seq


class UnsupportedError(StorageError):
    """This kind of store cannot do what was asked; the message says what can be done instead."""


class OutcomeUnknownError(StorageError):
    """The store failed after a write was sent to it: it may or may not have happened.

    Attributes:
        idempotency_key: the key of the call, None if it had none. Repeated with
            its key it cannot be stored twice.
    """

    def __init__(self, idempotency_key: str | None) -> None:
        super().__init__(
            "the outcome of this write is unknown; look at the session's newest records before "
            "you repeat the call, and give it an idempotency_key, with which it could be repeated"
            if idempotency_key is None
            else "the outcome of this write is unknown; repeat the call with "
            f"idempotency_key={idempotency_key!r}, which cannot store it twice"
        )
        self.idempotency_key = idempotency_key


class RateLimit(NamedTuple):
    """One limit of a provider, as it stood at an answer.

    Attributes:
        limit: how much there is at most, None if the provider does not say.
        remaining: how much of it is left.
        resets_in: seconds until all of it is there again.
    """

    limit: int | None = None
    remaining: int | None = None
    resets_in: float | None = None


class RateLimits(NamedTuple):
    """The limits that an answer tells of; None are those that it does not.

    Attributes:
        requests: of requests.
        tokens: of tokens, in and out together.
        input_tokens: of tokens in.
        output_tokens: of tokens out.
    """

    requests: RateLimit | None = None
    tokens: RateLimit | None = None
    input_tokens: RateLimit | None = None
    output_tokens: RateLimit | None = None


class LLMError(AsyncHistoryError):
    """A model could not be reached, or did not answer well.

    Attributes:
        provider: whose model it is, "" where that is not known.
        status: the HTTP status, None if there was no answer.
        request_id: the provider's id of the request, for its support.
        retry_after: seconds that the provider asks to wait, None if it does not say.
        limits: what the answer says of the rate limits, None if nothing.
        retryable: whether the same request may work when it is sent again.
        attempts: how often it was sent.
    """

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        limits: RateLimits | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.limits = limits
        self.retryable = retryable
        self.attempts = 1


class ClientCreationError(LLMError):
    """An LLM instance could not be made; ``__cause__`` says why. The next call tries again."""


class LLMConnectionError(LLMError):
    """The server could not be reached, or hung up."""


class LLMTimeoutError(LLMError):
    """The server did not answer in time, or says that it could not (408, 504)."""


class LLMAuthenticationError(LLMError):
    """The server does not accept the key (401, 403)."""


class LLMRateLimitError(LLMError):
    """Too many requests, or no credit left (429)."""


class LLMQuotaError(LLMRateLimitError):
    """No credit is left, or a limit of spending is reached (429, 402). Waiting does not help."""


class LLMRequestError(LLMError):
    """The server does not accept the request (400, 404, 413, 422, ...)."""


class LLMServerError(LLMError):
    """The server failed (5xx)."""


class LLMOverloadedError(LLMServerError):
    """The server has too much to do at the moment (529)."""


class LLMResponseError(LLMError):
    """The server's answer is malformed, or was cut off."""


class LifecycleError(AsyncHistoryError, RuntimeError):
    """Something was used at a time or place where it cannot work."""


class NotOpenError(LifecycleError):
    """A manager or store was used outside its ``async with`` block."""


class NoEventLoopError(LifecycleError):
    """Neither asyncio nor trio is running in this thread."""


class LoopThreadError(LifecycleError):
    """A synchronous call would block the event loop that it waits for."""


class BridgeClosedError(LifecycleError):
    """A synchronous call came while the interpreter exits, when no event loop can start."""
