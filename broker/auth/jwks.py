"""JWK sets (RFC 7517): the verification keys in a JSON document.

Rules: no I/O; `web/jwks_fetcher.py` fetches the document. Everything in it is checked, because it comes from another server.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from broker.auth.keys import BadKey, VerificationKey, from_public_key

MAX_KEYS = 32
MAX_KEY_ID_CHARS = 200


def parse_jwk_set(document: bytes) -> Sequence[VerificationKey]:
    """The keys of a JWK set that can verify tokens; others are ignored (RFC 7517 §5). A set without keys is a set, too.

    Raises:
        ValueError: it is not a JWK set of at most `MAX_KEYS` keys.
        RecursionError: the JSON is nested too deeply.
    """
    jwk_set = json.loads(document)
    members = jwk_set.get("keys") if isinstance(jwk_set, dict) else None
    if not isinstance(members, list) or len(members) > MAX_KEYS:
        raise ValueError(f"the answer is not a JWK set of at most {MAX_KEYS} keys")
    jwks = [member for member in members if isinstance(member, dict)]
    if members and not jwks:
        raise ValueError("the answer's keys are not JWKs")
    keys = []
    for jwk in jwks:
        with contextlib.suppress(BadKey):
            keys.append(key_from_jwk(jwk))
    return keys


def key_from_jwk(jwk: Mapping[str, Any]) -> VerificationKey:
    """The key in one member of a JWK set.

    Raises:
        BadKey: it is malformed, weak, for another use, or a secret.
    """
    if jwk.get("kty") not in ("RSA", "EC", "OKP"):
        raise BadKey("this is not a public key")
    if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ["verify"]):
        raise BadKey("this key is not for signatures")
    key_id = jwk.get("kid")
    if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= MAX_KEY_ID_CHARS):
        raise BadKey(f"'kid' must be a string of at most {MAX_KEY_ID_CHARS} characters")
    import jwt  # see `tokens`

    try:
        without_algorithm = {name: value for name, value in jwk.items() if name != "alg"}
        key = from_public_key(jwt.PyJWK(without_algorithm).key)
    except BadKey:
        raise
    except Exception:  # PyJWT and cryptography raise many types, TypeError too
        raise BadKey("this key is malformed") from None
    algorithms = key.algorithms & {jwk["alg"]} if "alg" in jwk else key.algorithms
    if not algorithms:
        raise BadKey("'alg' does not fit this type of key")
    return VerificationKey(algorithms, key.material, key_id)
