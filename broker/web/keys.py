"""What handlers find in the application."""

from __future__ import annotations

from aiohttp import web

from broker.node import Node
from broker.settings import Settings
from broker.web.bodies import Bodies
from broker.web.headers import Headers
from broker.web.producing import Producing
from broker.web.waiting import Waiting

NODE = web.AppKey("node", Node)
BODIES = web.AppKey("bodies", Bodies)
HEADERS = web.AppKey("headers", Headers)
WAITING = web.AppKey("waiting", Waiting)
PRODUCING = web.AppKey("producing", Producing)
SETTINGS = web.AppKey("settings", Settings)
