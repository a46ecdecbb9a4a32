"""What runs: the application, an instance, and the supervisor with its workers and its Valkey server."""
