"""Keys that verify tokens, each with the algorithms that it may be used with.

Rules: the key decides the algorithm, never the token (RFC 8725 §3.1). Otherwise a public key could be used as an HMAC secret.
Weak keys are refused. `cryptography` is imported late: a broker without keys doesn't need it, and it takes a tenth of the start and
9 MB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

MIN_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""A secret must be at least as long as the hash (RFC 7518 §3.2)."""
MIN_RSA_BITS = 2048
"""RFC 7518 §3.3."""
MAX_RSA_BITS = 8192
"""Larger keys are slow to use, and any client can send tokens."""
RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
CURVE_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

_PEM = re.compile(rb"-----BEGIN|^ssh-|^ecdsa-sha2-", re.MULTILINE)


class BadKey(ValueError):
    """The operator's or a JWK server's fault: this key can't verify tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class VerificationKey:
    """A key that verifies a token's signature.

    Attributes:
        algorithms: those it may be used with (RFC 7518 §3.1).
        material: the key as PyJWT takes it.
        id: the `kid` of tokens that name this key; None fits every token.
    """

    algorithms: frozenset[str]
    material: Any
    id: str | None = None

    def fits(self, algorithm: str, key_id: str | None) -> bool:
        """Whether it may verify a token with this `alg` and `kid`; None if the token has no `kid`."""
        return algorithm in self.algorithms and (key_id is None or self.id in (None, key_id))


@dataclass(frozen=True, slots=True)
class Signature:
    """How a token was verified.

    Attributes:
        algorithm: the token's `alg`.
        key_id: the token's `kid`, or None.
    """

    key: VerificationKey
    algorithm: str
    key_id: str | None

    def is_verified_by(self, key: VerificationKey) -> bool:
        """Whether `key` verifies the token too: it is the same key, and fits."""
        return key.fits(self.algorithm, self.key_id) and (
            key is self.key or bool(key.material == self.key.material)
        )


def secret(text: str) -> VerificationKey:
    """The HMAC key for a secret shared with the tokens' issuer. Raises `BadKey`."""
    material = text.encode()
    algorithms = frozenset(name for name, least in MIN_SECRET_BYTES.items() if len(material) >= least)
    if not algorithms:
        raise BadKey(
            f"a secret of {len(material)} bytes is too short; use at least {MIN_SECRET_BYTES['HS256']} random bytes: "
            "broker token --new-secret"
        )
    if _PEM.search(material):
        raise BadKey("this is a PEM key, not a secret; name its file in jwt_public_keys")
    return VerificationKey(algorithms, material)


def public_key(pem: bytes) -> VerificationKey:
    """The key in a PEM public key or certificate. Raises `BadKey`."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from cryptography.x509 import load_pem_x509_certificate

    if b"PRIVATE KEY-----" in pem:
        raise BadKey("this is a private key; use the public key")
    try:
        if b"-----BEGIN CERTIFICATE-----" in pem:
            return from_public_key(load_pem_x509_certificate(pem).public_key())
        return from_public_key(load_pem_public_key(pem))
    except BadKey:
        raise
    except Exception:  # cryptography raises many types
        raise BadKey("it contains no public key in PEM format") from None


def from_public_key(key: object) -> VerificationKey:
    """The key for a public key of `cryptography`. Raises `BadKey`."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if isinstance(key, RSAPublicKey):
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise BadKey(
                f"RSA keys must have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits; this one has {key.key_size} bits"
            )
        return VerificationKey(RSA_ALGORITHMS, key)
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in CURVE_ALGORITHMS:
        return VerificationKey(frozenset({CURVE_ALGORITHMS[key.curve.name]}), key)
    if isinstance(key, Ed25519PublicKey):
        return VerificationKey(frozenset({"EdDSA"}), key)
    raise BadKey("keys must be RSA, P-256, P-384, P-521 or Ed25519; this is another kind")
