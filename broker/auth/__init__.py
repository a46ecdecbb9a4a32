"""Authentication and authorization: grants, tokens, the keys that verify them, and revocations.

Rules: values only; no asyncio, no I/O.
"""
