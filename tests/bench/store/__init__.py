"""The cost of a shared store: two brokers on one Valkey server, compared with the store in memory."""
