"""The services that handlers use."""

from __future__ import annotations

from dataclasses import dataclass

from broker.node.node import Node
from broker.settings import Settings
from broker.web.body_reader import BodyReader
from broker.web.headers import ResponseHeaders
from broker.web.identity import Authenticator
from broker.web.large_answers import LargeAnswers
from broker.web.producers import Producers


@dataclass(frozen=True, slots=True)
class Services:
    """What handlers use; made when the application starts."""

    settings: Settings
    node: Node
    authenticator: Authenticator
    bodies: BodyReader
    producers: Producers
    response_headers: ResponseHeaders
    large_answers: LargeAnswers
