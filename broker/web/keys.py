"""What handlers find in the application."""

from __future__ import annotations

from aiohttp import web

from broker.node import Node
from broker.settings import Settings

NODE = web.AppKey("node", Node)
SETTINGS = web.AppKey("settings", Settings)
