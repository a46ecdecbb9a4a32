"""Where events are kept and given their ids.

base          the contract of every store
memory        the store in memory
redis         the store in a Redis or Valkey server, shared by several instances
idempotency   idempotency keys in memory
leases        leases in memory
"""
