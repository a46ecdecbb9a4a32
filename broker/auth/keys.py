"""Keys that tokens are verified with, each with the algorithms that it is good for.

Rules: the algorithm is the key's, never the token's choice (RFC 8725 §3.1): a public key must not be taken for a secret, nor a
key for less than its strength. What is too weak is refused here, before any token comes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

HMAC_LEAST_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""A secret is at least as long as the hash (RFC 7518 §3.2)."""
RSA_BITS = (2048, 8192)
"""At least (RFC 7518 §3.3); and at most, since who sends the token chooses when it is used."""
RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
MAX_KEY_ID = 200

_PEM = re.compile(rb"-----BEGIN|^ssh-|^ecdsa-sha2-", re.MULTILINE)


class BadKey(ValueError):
    """The operator's, or a key server's: this is no key that tokens may be verified with."""


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """What verifies a token's signature.

    Attributes:
        algorithms: those it may be used with (RFC 7518 §3.1).
        material: as PyJWT takes it.
        id: the `kid` by which tokens name it; None fits any token.
    """

    algorithms: frozenset[str]
    material: Any
    id: str | None = None


def secret(text: str) -> Key:
    """A secret that whoever mints tokens shares. Raises `BadKey`."""
    material = text.encode()
    algorithms = frozenset(name for name, least in HMAC_LEAST_BYTES.items() if len(material) >= least)
    if not algorithms:
        raise BadKey(
            f"a secret of {len(material)} bytes can be guessed; take at least {HMAC_LEAST_BYTES['HS256']} random ones: "
            "broker token --new-secret"
        )
    if _PEM.search(material):
        raise BadKey("this is a PEM key and no secret; name its file in jwt_public_keys")
    return Key(algorithms, material)


def public_key(pem: bytes) -> Key:
    """A public key, or the one of a certificate, in PEM. Raises `BadKey`."""
    if b"PRIVATE KEY-----" in pem:
        raise BadKey("this is a private key; the broker needs the public one")
    try:
        if b"-----BEGIN CERTIFICATE-----" in pem:
            return _public(load_pem_x509_certificate(pem).public_key())
        return _public(load_pem_public_key(pem))
    except BadKey:
        raise
    except Exception:  # cryptography's own kinds differ by what is wrong
        raise BadKey("no public key in PEM is in it") from None


def _public(material: object) -> Key:
    least, most = RSA_BITS
    if isinstance(material, RSAPublicKey):
        if not least <= material.key_size <= most:
            raise BadKey(f"an RSA key of {material.key_size} bits isn't taken; {least} to {most} are")
        return Key(RSA_ALGORITHMS, material)
    if isinstance(material, EllipticCurvePublicKey) and material.curve.name in CURVES:
        return Key(frozenset({CURVES[material.curve.name]}), material)
    if isinstance(material, Ed25519PublicKey):
        return Key(frozenset({"EdDSA"}), material)
    raise BadKey("RSA, P-256, P-384, P-521 and Ed25519 keys are taken; this is another")


def from_jwk(jwk: Mapping[str, Any]) -> Key:
    """A key of a JWK set (RFC 7517). Raises `BadKey`, also for a secret: what everybody can fetch is none."""
    if jwk.get("kty") not in ("RSA", "EC", "OKP"):
        raise BadKey("the key is not a public one")
    if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ["verify"]):
        raise BadKey("the key is not for signatures")
    key_id = jwk.get("kid")
    if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= MAX_KEY_ID):
        raise BadKey("the key's id is none")
    try:
        bare = {name: value for name, value in jwk.items() if name != "alg"}
        key = _public(jwt.PyJWK(bare).key)
    except BadKey:
        raise
    except Exception:  # PyJWT's and cryptography's own kinds, and TypeErrors for members of other types
        raise BadKey("the key is malformed") from None
    algorithms = key.algorithms & {jwk["alg"]} if "alg" in jwk else key.algorithms
    if not algorithms:
        raise BadKey("the key is for an algorithm that it can't be used with")
    return Key(algorithms, key.material, key_id)
