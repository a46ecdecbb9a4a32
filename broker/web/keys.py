"""What handlers find in the application."""

from __future__ import annotations

from aiohttp import web

from broker.node import Node
from broker.settings import Settings
from broker.web.bodies import Bodies

NODE = web.AppKey("node", Node)
BODIES = web.AppKey("bodies", Bodies)
SETTINGS = web.AppKey("settings", Settings)
