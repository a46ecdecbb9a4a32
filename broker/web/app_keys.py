"""What handlers find in the application."""

from __future__ import annotations

from aiohttp import web

from broker.node.node import Node
from broker.settings import Settings
from broker.web.body_reader import BodyReader
from broker.web.connection_timeouts import ConnectionTimeouts
from broker.web.headers import ResponseHeaders
from broker.web.producers import Producers

NODE = web.AppKey("node", Node)
BODIES = web.AppKey("bodies", BodyReader)
HEADERS = web.AppKey("headers", ResponseHeaders)
WAITING = web.AppKey("waiting", ConnectionTimeouts)
PRODUCING = web.AppKey("producing", Producers)
SETTINGS = web.AppKey("settings", Settings)
