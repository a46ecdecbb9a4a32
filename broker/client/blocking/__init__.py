"""The client without asyncio, for Django, Flask and scripts.

Rules: the standard library only, and none of its modules that a system may lack. Safe with threads and after a fork.

    connections    connections that are kept for the next request
    requests       one request
    streamed_body  one request with a body that is sent in parts
    streaming      `BlockingStream`: events into one topic
    subscription   `BlockingSubscription`
    client         `BlockingClient`, and `publish`
"""
