"""The PostgreSQL store: sessions in one schema of a database, for any number of machines."""

from asynchistory.storage.postgres.store import PostgresStorage

__all__ = ["PostgresStorage"]
