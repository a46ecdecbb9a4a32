"""What the shared store costs: two brokers on one Valkey server, against the store in memory."""
