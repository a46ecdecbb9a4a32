"""The front: HTTP/1.1 and 1.0 on `httptools`, for the servers that the broker starts itself.

`connection` parses requests and sends answers, `exchange` is one request with its body, `head` has its headers and target,
`answers` encodes answers, `access_log` writes a line for each. The handlers are the same as under aiohttp.
"""
