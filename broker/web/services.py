"""The services that handlers use."""

from __future__ import annotations

from dataclasses import dataclass

from broker.fanout.origin import Client, client_at
from broker.node.node import Node
from broker.settings import Settings
from broker.web.body_reader import BodyReader
from broker.web.client_address import ClientAddresses
from broker.web.headers import ResponseHeaders
from broker.web.identity import Authenticator
from broker.web.producers import Producers
from broker.web.refusals import Refusals
from broker.web.request_headers import Headers
from broker.web.request_id import sent_id
from broker.web.request_measures import RequestMeasures
from broker.web.unread_answers import UnreadAnswers


@dataclass(frozen=True, slots=True)
class Services:
    """What handlers use; made when the application starts.

    Attributes:
        addresses: of clients, for logs.
    """

    settings: Settings
    node: Node
    authenticator: Authenticator
    bodies: BodyReader
    producers: Producers
    response_headers: ResponseHeaders
    unread_answers: UnreadAnswers
    refusals: Refusals
    addresses: ClientAddresses
    measures: RequestMeasures

    def client(self, headers: Headers, peer: str) -> Client:
        """Where a stream's request came from, for its lines; `peer` is the connection's address."""
        client, request_id = client_at(self.addresses.client(headers, peer)), sent_id(headers)
        return client if request_id is None else Client(client.address, request_id)
