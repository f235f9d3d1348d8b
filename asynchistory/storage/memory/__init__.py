"""The memory store: every promise of the port but durability. For tests and throw-away work."""

from asynchistory.storage.memory.store import MemoryStorage

__all__ = ["MemoryStorage"]
