"""Who may do what: grants, tokens, the keys that verify them, and revocations. Values only: no asyncio, no I/O."""
