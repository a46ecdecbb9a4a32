"""Keys of every kind that a token may be signed with, and tokens."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

SECRET = "a secret of more than sixty-four bytes, so that it is long enough for HS512"
OTHER_SECRET = "another secret of more than sixty-four bytes, for the rotation of secrets"


@dataclass(frozen=True, eq=False)
class Signer:
    """A private key, or a secret, and an algorithm that goes with it."""

    algorithm: str
    material: Any

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        return jwt.encode(claims, self.material, self.algorithm, header or None)

    def token(
        self,
        publish: Sequence[str] = (),
        subscribe: Sequence[str] = (),
        *,
        admin: bool = False,
        **claims: Any,
    ) -> str:
        """A token with these rights, and what else is claimed."""
        rights = {"publish": list(publish), "subscribe": list(subscribe), "admin": admin}
        return self.sign({"broker": rights, **claims})

    @property
    def public_pem(self) -> bytes:
        pem: bytes = self.material.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    @property
    def private_pem(self) -> bytes:
        pem: bytes = self.material.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem

    def jwk(self, **members: Any) -> dict[str, Any]:
        """The public key as a member of a JWK set."""
        kind = jwt.get_algorithm_by_name(self.algorithm)
        made: Any = kind.to_jwk(self.material.public_key())
        return {**json.loads(made), **members}


HMAC = Signer("HS256", SECRET)


def token_part(value: object) -> str:
    """A part of a token: bytes, or what becomes JSON."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(data).decode().rstrip("=")


def sign_any(claims: dict[str, Any]) -> str:
    """A token signed with `SECRET`, whatever it claims; PyJWT refuses some claims."""
    text = f"{token_part({'alg': 'HS256', 'typ': 'JWT'})}.{token_part(claims)}"
    mac = jwt.get_algorithm_by_name("HS256").sign(text.encode(), SECRET.encode())
    return f"{text}.{token_part(mac)}"


_MAKERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "RS256": ("rsa", lambda: rsa.generate_private_key(65537, 2048)),
    "PS512": ("rsa", lambda: rsa.generate_private_key(65537, 2048)),
    "ES256": ("p256", lambda: ec.generate_private_key(ec.SECP256R1())),
    "ES384": ("p384", lambda: ec.generate_private_key(ec.SECP384R1())),
    "ES512": ("p521", lambda: ec.generate_private_key(ec.SECP521R1())),
    "EdDSA": ("ed25519", ed25519.Ed25519PrivateKey.generate),
}
ASYMMETRIC = tuple(_MAKERS)


@cache
def _material(name: str) -> Any:
    return next(make for kind, make in _MAKERS.values() if kind == name)()


def signer(algorithm: str) -> Signer:
    """The one of this algorithm; those of RSA share their key."""
    if algorithm.startswith("HS"):
        return Signer(algorithm, SECRET)
    return Signer(algorithm, _material(_MAKERS[algorithm][0]))
