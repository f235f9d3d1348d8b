"""asynchistory for synchronous code: the same objects, from any thread, without asyncio.run.

All calls go to one event loop in a daemon thread of this process, through
AnyIO's blocking portal.
"""

from asynchistory_compat.bridge import (
    BlockingInLoopWarning,
    Bridge,
    LoopPolicy,
    bridge,
    configure,
)
from asynchistory_compat.cache import AsyncCache, SyncCacheAdapter
from asynchistory_compat.history import Export, HistoryManager, Watch, get_history, safe_async_call
from asynchistory_compat.llm import Conversation, LLMFactory

__all__ = [
    "AsyncCache",
    "BlockingInLoopWarning",
    "Bridge",
    "Conversation",
    "Export",
    "HistoryManager",
    "LLMFactory",
    "LoopPolicy",
    "SyncCacheAdapter",
    "Watch",
    "bridge",
    "configure",
    "get_history",
    "safe_async_call",
]
