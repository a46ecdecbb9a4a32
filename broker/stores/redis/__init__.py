"""The store in Redis or Valkey, for more than one process or machine (design §4)."""
