"""The second tier: tails in Redis, for the processes that share a store.

Nothing here is imported before a cache with a ``redis://`` URL is made. It needs coredis:
``pip install 'asynchistory[redis]'``.
"""
