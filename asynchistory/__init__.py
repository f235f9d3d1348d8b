"""Durable conversation history for LLM applications, on asyncio, trio and plain sync code.

Names are loaded when they are first used, so that importing the package is
quick and pulls in nothing that is not needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asynchistory._version import __version__ as __version__

if TYPE_CHECKING:
    from asynchistory.ahead import (
        ReadAhead as ReadAhead,
    )
    from asynchistory.cache.enhanced import (
        AsyncCache as AsyncCache,
        EnhancedCacheManager as EnhancedCacheManager,
    )
    from asynchistory.cache.tail import (
        CacheStatistics as CacheStatistics,
        Level as Level,
        TailCache as TailCache,
    )
    from asynchistory.cache.tier import (
        SecondTier as SecondTier,
        TierStatistics as TierStatistics,
    )
    from asynchistory.config import (
        Durability as Durability,
        open_history as open_history,
        open_storage as open_storage,
    )
    from asynchistory.conversation import (
        Conversation as Conversation,
    )
    from asynchistory.errors import (
        ArchiveError as ArchiveError,
        AsyncHistoryError as AsyncHistoryError,
        BackupExistsError as BackupExistsError,
        BridgeClosedError as BridgeClosedError,
        BusyError as BusyError,
        CheckpointNotFoundError as CheckpointNotFoundError,
        ClientCreationError as ClientCreationError,
        ConfigurationError as ConfigurationError,
        ConflictError as ConflictError,
        CorruptRecordError as CorruptRecordError,
        EpochChangedError as EpochChangedError,
        ForeignDatabaseError as ForeignDatabaseError,
        IdempotencyMismatchError as IdempotencyMismatchError,
        InvalidInputError as InvalidInputError,
        InvalidQueryError as InvalidQueryError,
        InvalidRecordError as InvalidRecordError,
        InvalidSessionIdError as InvalidSessionIdError,
        LifecycleError as LifecycleError,
        LLMAuthenticationError as LLMAuthenticationError,
        LLMConnectionError as LLMConnectionError,
        LLMError as LLMError,
        LLMOverloadedError as LLMOverloadedError,
        LLMQuotaError as LLMQuotaError,
        LLMRateLimitError as LLMRateLimitError,
        LLMRequestError as LLMRequestError,
        LLMResponseError as LLMResponseError,
        LLMServerError as LLMServerError,
        LLMTimeoutError as LLMTimeoutError,
        LoopThreadError as LoopThreadError,
        NewerSchemaError as NewerSchemaError,
        NoEventLoopError as NoEventLoopError,
        NotOpenError as NotOpenError,
        OutcomeUnknownError as OutcomeUnknownError,
        RateLimit as RateLimit,
        RateLimits as RateLimits,
        RecordTooLargeError as RecordTooLargeError,
        SequenceConflictError as SequenceConflictError,
        SessionDiffersError as SessionDiffersError,
        SessionExistsError as SessionExistsError,
        SessionNotFoundError as SessionNotFoundError,
        StorageError as StorageError,
        StorageUnavailableError as StorageUnavailableError,
        UnsupportedError as UnsupportedError,
    )
    from asynchistory.llm.factory import (
        FactoryStatistics as FactoryStatistics,
        LLMFactory as LLMFactory,
        default_factory as default_factory,
    )
    from asynchistory.llm.key import (
        ApiKey as ApiKey,
        ClientKey as ClientKey,
    )
    from asynchistory.llm.langchain import (
        LangChainClient as LangChainClient,
    )
    from asynchistory.llm.port import (
        ChatRequest as ChatRequest,
        Completion as Completion,
        LLMClient as LLMClient,
        ReasoningDelta as ReasoningDelta,
        TextDelta as TextDelta,
        ToolSpec as ToolSpec,
    )
    from asynchistory.llm.prices import (
        Price as Price,
        PriceOf as PriceOf,
    )
    from asynchistory.llm.providers import (
        ClientConfig as ClientConfig,
        register_provider as register_provider,
    )
    from asynchistory.llm.scripted import (
        ScriptedClient as ScriptedClient,
    )
    from asynchistory.manager import (
        AnyLines as AnyLines,
        AsyncHistoryManager as AsyncHistoryManager,
        Export as Export,
        OrphanToolResult as OrphanToolResult,
        PendingToolCall as PendingToolCall,
        Repaired as Repaired,
        StatisticsOptions as StatisticsOptions,
        Watch as Watch,
        Window as Window,
        WriteOptions as WriteOptions,
        estimate_tokens as estimate_tokens,
    )
    from asynchistory.queries import (
        Amounts as Amounts,
        Appended as Appended,
        CostStatistics as CostStatistics,
        GroupBy as GroupBy,
        HistoryPage as HistoryPage,
        HistoryQuery as HistoryQuery,
        Imported as Imported,
        LLMStatistics as LLMStatistics,
        Removed as Removed,
        SearchHit as SearchHit,
        SearchOrder as SearchOrder,
        SearchQuery as SearchQuery,
        Session as Session,
        SessionPage as SessionPage,
        SessionSummary as SessionSummary,
        StoreCounts as StoreCounts,
        StoreHealth as StoreHealth,
        StoreStatistics as StoreStatistics,
        TokenStatistics as TokenStatistics,
        Truncated as Truncated,
        Verification as Verification,
        Version as Version,
    )
    from asynchistory.records import (
        JSON as JSON,
        AnyPart as AnyPart,
        AnyRecord as AnyRecord,
        Blob as Blob,
        Checkpoint as Checkpoint,
        CorruptRecord as CorruptRecord,
        Cost as Cost,
        File as File,
        LLMRequest as LLMRequest,
        LLMResponse as LLMResponse,
        Message as Message,
        Part as Part,
        Reasoning as Reasoning,
        Record as Record,
        StoredRecord as StoredRecord,
        Text as Text,
        TokenUsage as TokenUsage,
        ToolCall as ToolCall,
        ToolCallPart as ToolCallPart,
        ToolResultPart as ToolResultPart,
        Uri as Uri,
        Usage as Usage,
        money as money,
    )
    from asynchistory.storage.memory import (
        MemoryStorage as MemoryStorage,
    )
    from asynchistory.storage.port import (
        Batch as Batch,
        Storage as Storage,
    )
    from asynchistory.storage.postgres import (
        PostgresStorage as PostgresStorage,
    )
    from asynchistory.storage.sqlite import (
        SQLiteStorage as SQLiteStorage,
    )
    from asynchistory.tools import (
        Tool as Tool,
    )
    from asynchistory.turn import (
        DoneEvent as DoneEvent,
        Event as Event,
        ToolCallEvent as ToolCallEvent,
        ToolResultEvent as ToolResultEvent,
        UsageEvent as UsageEvent,
    )

#: Which module each public name comes from; a test holds it equal to the imports above.
_NAMES: dict[str, tuple[str, ...]] = {
    "conversation": ("Conversation",),
    "llm.factory": (
        "FactoryStatistics",
        "LLMFactory",
        "default_factory",
    ),
    "llm.key": (
        "ApiKey",
        "ClientKey",
    ),
    "llm.langchain": ("LangChainClient",),
    "llm.port": (
        "ChatRequest",
        "Completion",
        "LLMClient",
        "ReasoningDelta",
        "TextDelta",
        "ToolSpec",
    ),
    "llm.prices": (
        "Price",
        "PriceOf",
    ),
    "llm.providers": (
        "ClientConfig",
        "register_provider",
    ),
    "llm.scripted": ("ScriptedClient",),
    "tools": ("Tool",),
    "turn": (
        "DoneEvent",
        "Event",
        "ToolCallEvent",
        "ToolResultEvent",
        "UsageEvent",
    ),
    "ahead": ("ReadAhead",),
    "cache.enhanced": (
        "AsyncCache",
        "EnhancedCacheManager",
    ),
    "cache.tail": (
        "CacheStatistics",
        "Level",
        "TailCache",
    ),
    "cache.tier": (
        "SecondTier",
        "TierStatistics",
    ),
    "config": (
        "Durability",
        "open_history",
        "open_storage",
    ),
    "errors": (
        "LLMError",
        "ClientCreationError",
        "LLMConnectionError",
        "LLMTimeoutError",
        "LLMAuthenticationError",
        "LLMRateLimitError",
        "LLMQuotaError",
        "LLMRequestError",
        "LLMServerError",
        "LLMOverloadedError",
        "LLMResponseError",
        "RateLimit",
        "RateLimits",
        "ArchiveError",
        "AsyncHistoryError",
        "BackupExistsError",
        "BridgeClosedError",
        "BusyError",
        "CheckpointNotFoundError",
        "ConfigurationError",
        "ConflictError",
        "CorruptRecordError",
        "EpochChangedError",
        "ForeignDatabaseError",
        "IdempotencyMismatchError",
        "InvalidInputError",
        "InvalidQueryError",
        "InvalidRecordError",
        "InvalidSessionIdError",
        "LifecycleError",
        "LoopThreadError",
        "NewerSchemaError",
        "NoEventLoopError",
        "NotOpenError",
        "OutcomeUnknownError",
        "RecordTooLargeError",
        "SequenceConflictError",
        "SessionDiffersError",
        "SessionExistsError",
        "SessionNotFoundError",
        "StorageError",
        "StorageUnavailableError",
        "UnsupportedError",
    ),
    "manager": (
        "AnyLines",
        "AsyncHistoryManager",
        "Export",
        "OrphanToolResult",
        "PendingToolCall",
        "Repaired",
        "StatisticsOptions",
        "Watch",
        "Window",
        "WriteOptions",
        "estimate_tokens",
    ),
    "queries": (
        "Amounts",
        "Appended",
        "CostStatistics",
        "GroupBy",
        "HistoryPage",
        "HistoryQuery",
        "Imported",
        "LLMStatistics",
        "Removed",
        "SearchHit",
        "SearchOrder",
        "SearchQuery",
        "Session",
        "SessionPage",
        "SessionSummary",
        "StoreCounts",
        "StoreHealth",
        "StoreStatistics",
        "TokenStatistics",
        "Truncated",
        "Verification",
        "Version",
    ),
    "records": (
        "AnyPart",
        "AnyRecord",
        "Blob",
        "Checkpoint",
        "CorruptRecord",
        "Cost",
        "File",
        "JSON",
        "LLMRequest",
        "LLMResponse",
        "Message",
        "Part",
        "Reasoning",
        "Record",
        "StoredRecord",
        "Text",
        "TokenUsage",
        "ToolCall",
        "ToolCallPart",
        "ToolResultPart",
        "Uri",
        "Usage",
        "money",
    ),
    "storage.memory": ("MemoryStorage",),
    "storage.port": (
        "Batch",
        "Storage",
    ),
    "storage.postgres": ("PostgresStorage",),
    "storage.sqlite": ("SQLiteStorage",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
