"""The bounded log of a topic, the table of all logs, and where a reader starts. Values in memory: no asyncio, no I/O."""
