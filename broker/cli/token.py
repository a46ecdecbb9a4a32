"""Mint a token, or explain one; or make a new secret."""

from __future__ import annotations

import argparse
import json
import re
import secrets
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jwt
from pydantic import ValidationError

from broker.auth.grants import Grant
from broker.auth.keys import MIN_SECRET_BYTES, BadKey, public_key, secret
from broker.auth.tokens import MAX_CLAIM_CHARS, Verifier
from broker.cli import remote
from broker.cli.serve import one_line
from broker.errors import InvalidTopic, Unauthorized
from broker.settings import Settings
from broker.topics import check_pattern

EPILOG = """\
A token is signed with the first of BROKER_JWT_SECRETS, or with the private key of --key, and printed. Without --expires it is
good for an hour. --explain reads a token without BROKER_JWT_SECRETS and its like, too; with them it says whether a broker with
these settings takes it.

examples:
  export BROKER_JWT_SECRETS="$(broker token --new-secret)"
  broker token --publish 'orders.*' --subscribe '**' --expires 1h
  broker token --admin --sub prometheus --expires never
  broker token --explain TOKEN

Exit status: 0; 1 where a token that is explained would be refused; 2 for wrong usage.
"""

NEW_SECRET_BYTES = 48
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIGNS = {"RSA": "RS256", "P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `broker token`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, what in {"publish": "published to", "subscribe": "read"}.items():
        parser.add_argument(
            f"--{name}",
            type=_pattern,
            action="append",
            default=[],
            metavar="PATTERN",
            help=f"topics that may be {what}; may be given again",
        )
    parser.add_argument("--admin", action="store_true", help="whether it is an operator's")
    parser.add_argument("--sub", type=_name, help="whom it is for")
    parser.add_argument("--jti", type=_name, help="its own id, by which it can be revoked")
    parser.add_argument(
        "--expires",
        type=_duration,
        default=3600,
        metavar="AGE",
        help="90s, 10m, 2h, 7d from now, or never (default: 1h)",
    )
    parser.add_argument("--audience", type=remote.text, help="by default BROKER_JWT_AUDIENCE")
    parser.add_argument("--issuer", type=remote.text, help="by default BROKER_JWT_ISSUER")
    parser.add_argument("--key", type=Path, metavar="FILE", help="sign with this private key, in PEM")
    parser.add_argument("--kid", type=remote.text, help="how the key is called in its JWK set")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--explain", metavar="TOKEN", help="what TOKEN says; - reads it from standard input")
    other.add_argument("--new-secret", action="store_true", help="print a value for BROKER_JWT_SECRETS")


def _pattern(text: str) -> str:
    try:
        return check_pattern(text)
    except InvalidTopic as error:
        raise argparse.ArgumentTypeError(error.detail) from None


def _name(text: str) -> str:
    if not 1 <= len(text) <= MAX_CLAIM_CHARS:
        raise argparse.ArgumentTypeError(f"a name is 1 to {MAX_CLAIM_CHARS} characters")
    return remote.text(text)


def _duration(text: str) -> int | None:
    if text == "never":
        return None
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if not found or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no age such as 90s, 10m, 2h, 7d, nor 'never'")
    return int(found[1]) * _SECONDS[found[2]]


def run(args: argparse.Namespace) -> int:
    """Mint, explain, or make a secret. The exit status is that of the help."""
    if args.new_secret:
        print(json.dumps([secrets.token_urlsafe(NEW_SECRET_BYTES)]))
        return 0
    try:
        settings = Settings()
        if args.explain is not None:
            return _explain(_token(args.explain), settings)
        print(_mint(args, settings))
    except ValidationError as error:
        remote.say("token", one_line(error))
        return 2
    except BadKey as error:
        remote.say("token", str(error))
        return 2
    return 0


# Mint


def _mint(args: argparse.Namespace, settings: Settings) -> str:
    material, algorithm = _signer(args.key, settings)
    now = int(time.time())
    rights = {"publish": args.publish, "subscribe": args.subscribe, "admin": args.admin}
    claims = {
        "iat": now,
        "exp": None if args.expires is None else now + args.expires,
        "sub": args.sub,
        "jti": args.jti,
        "aud": args.audience or settings.jwt_audience,
        "iss": args.issuer or settings.jwt_issuer,
        "broker": {name: value for name, value in rights.items() if value},
    }
    given = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(given, material, algorithm, {"kid": args.kid} if args.kid else None)


def _signer(path: Path | None, settings: Settings) -> tuple[Any, str]:
    if path is not None:
        return _private_key(path)
    if not settings.jwt_secrets:
        raise BadKey(
            "nothing to sign with: set BROKER_JWT_SECRETS as the broker has it, or name a private key with --key. "
            "A new secret: broker token --new-secret"
        )
    text = settings.jwt_secrets[0].get_secret_value()
    return text, next(name for name in MIN_SECRET_BYTES if name in secret(text).algorithms)


def _private_key(path: Path) -> tuple[Any, str]:
    """The key in a file, and the algorithm to sign with. Raises `BadKey`."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    try:
        material: Any = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise BadKey(f"can't read {path}: {error.strerror}") from None
    except (ValueError, TypeError):
        raise BadKey(f"{path}: no private key in PEM without a password is in it") from None
    pem = material.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return material, next(name for name in _SIGNS.values() if name in public_key(pem).algorithms)


# Explain


def _token(word: str) -> str:
    return sys.stdin.read().strip() if word == "-" else word


def _explain(token: str, settings: Settings) -> int:
    """Print what the token says, then whether it is taken."""
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        remote.say("token", "this is no JWT: three parts in base64url, with dots between")
        return 1
    print(json.dumps({"header": header, "claims": claims}, indent=2, ensure_ascii=True))
    now = time.time()
    for name, what in {"iat": "made", "nbf": "good from", "exp": "good until"}.items():
        if isinstance(claims.get(name), int | float):
            print(f"{what}: {_shown(claims[name], now)}")
    if not settings.has_keys():
        print("not verified: BROKER_JWT_SECRETS, BROKER_JWT_PUBLIC_KEYS are not set here")
        return 0
    if settings.jwks_url is not None:
        print("the keys of BROKER_JWKS_URL are not fetched here; only a broker does")
    verifier = Verifier(
        settings.verification_keys(), audience=settings.jwt_audience, issuer=settings.jwt_issuer
    )
    try:
        grant = verifier.verify(token, now)
    except Unauthorized as error:
        print(f"REFUSED: {error.detail}")
        return 1
    print("taken; it grants:", *_granted(grant), sep="\n  ")
    return 0


def _shown(seconds: float, now: float) -> str:
    try:
        moment = datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} (no time that a calendar has)"
    away = abs(seconds - now)
    return f"{moment} ({away:,.0f} s {'ago' if seconds < now else 'from now'})"


def _granted(grant: Grant) -> Sequence[str]:
    lines = [
        f"{verb} {', '.join(patterns)}"
        for verb, patterns in (("publish to", grant.publish), ("subscribe to", grant.subscribe))
        if patterns
    ]
    if grant.admin:
        lines.append("all that is for operators: list, delete, disconnect, revoke, metrics")
    return lines or ["nothing"]
