"""From the logs to the sockets: feeds, subscribers, and the hub that joins them."""
