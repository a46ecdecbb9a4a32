"""JWK sets: which documents are accepted, and which keys are taken from them."""

from __future__ import annotations

import base64
import json

import pytest

from broker.auth.jwks import MAX_KEYS, key_from_jwk, parse_jwk_set
from broker.auth.keys import RSA_ALGORITHMS, BadKey
from tests.support.tokens import ASYMMETRIC, signer


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_jwk_pins_its_algorithms(algorithm: str) -> None:
    pinned = RSA_ALGORITHMS if algorithm[:2] in ("RS", "PS") else {algorithm}
    jwk = signer(algorithm).jwk(kid="1")
    key = key_from_jwk(jwk)
    assert (key.algorithms, key.id) == (pinned, "1")
    assert key_from_jwk({**jwk, "alg": algorithm}).algorithms == {algorithm}


GOOD = signer("ES256").jwk()


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        {"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 64).decode()},
        {"kty": "RSA"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "n": 7, "e": []},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "OKP", "crv": "X25519", "x": "AA"},
        {"kty": []},
        {**GOOD, "alg": "RS256"},
        {**GOOD, "alg": "HS256"},
        {**GOOD, "alg": "none"},
        {**GOOD, "use": "enc"},
        {**GOOD, "key_ops": ["encrypt"]},
        {**GOOD, "kid": 7},
        {**GOOD, "kid": "x" * 201},
        {**GOOD, "kty": "RSA"},
    ],
    ids=range(16),  # the text of a random key would differ from run to run
)
def test_other_members_are_refused(jwk: dict[str, object]) -> None:
    with pytest.raises(BadKey):
        key_from_jwk(jwk)


def test_a_huge_rsa_key_is_refused_because_it_makes_verification_slow() -> None:
    number = base64.urlsafe_b64encode(b"\xff" * 4096).decode().rstrip("=")
    with pytest.raises(BadKey):
        key_from_jwk({"kty": "RSA", "n": number, "e": "AQAB"})


def test_only_the_keys_for_tokens_are_taken_from_a_set() -> None:
    members = [
        {"kty": "oct", "k": "AAAA" * 20, "kid": "secret"},
        {"kty": "new", "kid": "x"},
        7,
        {**GOOD, "kid": "encryption", "use": "enc"},
        {**GOOD, "kid": "good", "use": "sig", "alg": "ES256"},
    ]
    (key,) = parse_jwk_set(json.dumps({"keys": members}).encode())
    assert key.id == "good"


def test_the_size_of_a_set_is_limited() -> None:
    document = json.dumps({"keys": [{**GOOD, "kid": str(number)} for number in range(MAX_KEYS)]}).encode()
    assert len(parse_jwk_set(document)) == MAX_KEYS
    too_many = json.dumps({"keys": [GOOD] * (MAX_KEYS + 1)}).encode()
    with pytest.raises(ValueError, match=str(MAX_KEYS)):
        parse_jwk_set(too_many)


@pytest.mark.parametrize(
    "document", [b'{"keys": []}', b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}']
)
def test_a_set_may_have_no_usable_key(document: bytes) -> None:
    assert parse_jwk_set(document) == []


@pytest.mark.parametrize(
    "document",
    [
        b"<html>",
        b"\xff\xfe",
        b"[]",
        b'{"keys": {}}',
        b'{"keys": [1, "x", null, []]}',
    ],
)
def test_other_documents_are_refused(document: bytes) -> None:
    with pytest.raises(ValueError):
        parse_jwk_set(document)
