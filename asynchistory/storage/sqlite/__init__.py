"""The SQLite store. Imported when a SQLite URL is opened, not before."""

from asynchistory.storage.sqlite.store import SQLiteStorage

__all__ = ["SQLiteStorage"]
