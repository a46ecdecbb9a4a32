"""Make a token, explain one, or make a new secret."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jwt
from pydantic import ValidationError

from broker.auth.grants import Grant
from broker.auth.keys import MIN_SECRET_BYTES, BadKey, public_key, secret
from broker.auth.tokens import MAX_CLAIM_CHARS, Verifier, read_claims
from broker.cli import common
from broker.durations import parse_duration
from broker.errors import InvalidTopic, Unauthorized
from broker.settings import Settings
from broker.topics import check_pattern

EPILOG = """\
The token is signed with the first secret of BROKER_JWT_SECRETS, or with the private key of --key, and printed. By default it
expires in an hour. --explain needs no keys to read a token; with BROKER_JWT_SECRETS or the other key settings, it also says
whether a broker with these settings accepts it.

examples:
  export BROKER_JWT_SECRETS="$(broker token --new-secret)"
  broker token --publish 'orders.*' --subscribe '**' --expires 1h
  broker token --admin --sub prometheus --expires never
  broker token --explain TOKEN

Exit status: 0; 1 if an explained token would be refused; 2 for wrong usage.
"""

NEW_SECRET_BYTES = 48
_KEY_ALGORITHMS = ("RS256", "ES256", "ES384", "ES512", "EdDSA")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `broker token`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, action in {"publish": "publishing", "subscribe": "subscribing"}.items():
        parser.add_argument(
            f"--{name}",
            type=_pattern,
            action="append",
            default=[],
            metavar="PATTERN",
            help=f"allow {action} to these topics; repeatable",
        )
    parser.add_argument("--admin", action="store_true", help="allow everything that operators may do")
    parser.add_argument("--sub", type=_name, help="subject: the user")
    parser.add_argument("--jti", type=_name, help="id of the token, for revoking it")
    parser.add_argument(
        "--expires",
        type=_duration,
        default=3600,
        metavar="DURATION",
        help="90s, 10m, 2h or 7d from now, or never (default: 1h)",
    )
    parser.add_argument("--audience", type=common.text, help="audience (default: BROKER_JWT_AUDIENCE)")
    parser.add_argument("--issuer", type=common.text, help="issuer (default: BROKER_JWT_ISSUER)")
    parser.add_argument("--key", type=Path, metavar="FILE", help="sign with this private key (PEM)")
    parser.add_argument("--kid", type=common.text, help="id of the key in its JWK set")
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--explain", metavar="TOKEN", help="print what TOKEN contains; - reads it from standard input"
    )
    other.add_argument("--new-secret", action="store_true", help="print a value for BROKER_JWT_SECRETS")


def _pattern(text: str) -> str:
    try:
        return check_pattern(text)
    except InvalidTopic as error:
        raise argparse.ArgumentTypeError(error.detail) from None


def _name(text: str) -> str:
    if not 1 <= len(text) <= MAX_CLAIM_CHARS:
        raise argparse.ArgumentTypeError(f"a name has 1 to {MAX_CLAIM_CHARS} characters")
    return common.text(text)


def _duration(text: str) -> int | None:
    if text == "never":
        return None
    seconds = parse_duration(text, units="smhd")
    if not seconds:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 10m, 2h, 7d, nor 'never'")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Make or explain a token, or make a secret, and return the exit status that the help describes."""
    if args.new_secret:
        print(json.dumps([secrets.token_urlsafe(NEW_SECRET_BYTES)]))
        return 0
    try:
        settings = Settings()
        if args.explain is not None:
            token = sys.stdin.read().strip() if args.explain == "-" else args.explain
            return _explain(token, settings)
        print(_make_token(args, settings))
    except ValidationError as error:
        common.say("token", common.setting_error_text(error))
        return 2
    except BadKey as error:
        common.say("token", str(error))
        return 2
    return 0


# Make


def _make_token(args: argparse.Namespace, settings: Settings) -> str:
    material, algorithm = _signing_key(args.key, settings)
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


def _signing_key(path: Path | None, settings: Settings) -> tuple[Any, str]:
    """The key to sign with, and its algorithm. Raises `BadKey`."""
    if path is not None:
        return _private_key(path)
    if not settings.jwt_secrets:
        raise BadKey(
            "no key to sign with: set BROKER_JWT_SECRETS to the broker's value, or name a private key with --key. "
            "For a new secret, run: broker token --new-secret"
        )
    text = settings.jwt_secrets[0].get_secret_value()
    return text, next(name for name in MIN_SECRET_BYTES if name in secret(text).algorithms)


def _private_key(path: Path) -> tuple[Any, str]:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    try:
        material: Any = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise BadKey(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError):
        raise BadKey(f"{path}: this is not a private key in PEM without a password") from None
    pem = material.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return material, next(name for name in _KEY_ALGORITHMS if name in public_key(pem).algorithms)


# Explain


def _explain(token: str, settings: Settings) -> int:
    """Print the token, and whether a broker with these settings accepts it."""
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        common.say("token", "this is not a JWT: it needs three base64url parts, separated by dots")
        return 1
    print(json.dumps({"header": header, "claims": claims}, indent=2, ensure_ascii=True))
    now = time.time()
    for name, title in {"iat": "issued", "nbf": "valid from", "exp": "valid until"}.items():
        if isinstance(claims.get(name), int | float):
            print(f"{title}: {_time_text(claims[name], now)}")
    if not settings.has_keys():
        print("not verified: BROKER_JWT_SECRETS and BROKER_JWT_PUBLIC_KEYS are not set here")
        return _check_claims(claims)
    if settings.jwks_url is not None:
        print("the keys of BROKER_JWKS_URL are not used here: only a broker fetches them")
    verifier = Verifier(
        settings.verification_keys(), audience=settings.jwt_audience, issuer=settings.jwt_issuer
    )
    try:
        grant = verifier.verify(token, now)
    except Unauthorized as error:
        print(f"REFUSED: {error.detail}")
        return 1
    print("ACCEPTED. The bearer may:", *_grant_lines(grant), sep="\n  ")
    return 0


def _check_claims(claims: Mapping[str, Any]) -> int:
    """Print the faults of the claims, whatever the keys. Returns the exit status."""
    try:
        read_claims(claims)
    except Unauthorized as error:
        print(f"REFUSED: {error.detail}")
        return 1
    return 0


def _time_text(seconds: float, now: float) -> str:
    try:
        moment = datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} (not a date)"
    distance = abs(seconds - now)
    return f"{moment} ({distance:,.0f} s {'ago' if seconds < now else 'from now'})"


def _grant_lines(grant: Grant) -> Sequence[str]:
    lines = [
        f"{verb} {', '.join(patterns)}"
        for verb, patterns in (("publish to", grant.publish), ("subscribe to", grant.subscribe))
        if patterns
    ]
    if grant.admin:
        lines.append("do everything that operators may: list, delete, disconnect, revoke, metrics")
    return lines or ["nothing"]
