"""Which keys are taken, and for which algorithms."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from trustme import CA

from broker.auth.keys import RSA_ALGORITHMS, BadKey, from_jwk, public_key, secret
from tests.support.tokens import ASYMMETRIC, Signer, signer


@pytest.mark.parametrize(
    ("size", "algorithms"),
    [
        (32, {"HS256"}),
        (47, {"HS256"}),
        (48, {"HS256", "HS384"}),
        (64, {"HS256", "HS384", "HS512"}),
    ],
)
def test_a_secret_is_good_for_what_it_is_long_enough_for(size: int, algorithms: set[str]) -> None:
    assert secret("x" * size).algorithms == algorithms


@pytest.mark.parametrize("text", ["", "short", "x" * 31, "ü" * 15])
def test_a_short_secret_is_none(text: str) -> None:
    with pytest.raises(BadKey, match="bytes"):
        secret(text)


@pytest.mark.parametrize("text", [signer("RS256").public_pem.decode(), "ssh-rsa AAAA" + "x" * 60])
def test_a_public_key_is_no_secret(text: str) -> None:
    with pytest.raises(BadKey, match="jwt_public_keys"):
        secret(text)


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_public_key_pins_its_algorithms(algorithm: str) -> None:
    pinned = RSA_ALGORITHMS if algorithm[:2] in ("RS", "PS") else {algorithm}
    key = public_key(signer(algorithm).public_pem)
    assert (key.algorithms, key.id) == (pinned, None)
    jwk = signer(algorithm).jwk(kid="1")
    assert (from_jwk(jwk).algorithms, from_jwk(jwk).id) == (pinned, "1")
    assert from_jwk({**jwk, "alg": algorithm}).algorithms == {algorithm}


def test_a_certificate_has_a_key_too() -> None:
    pem = CA().issue_cert("localhost").cert_chain_pems[0].bytes()
    assert public_key(pem).algorithms == {"ES256"}


def _pem(key: object) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return pem


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        (b"", "no public key"),
        (b"garbage", "no public key"),
        (b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----", "no public key"),
        (signer("RS256").private_pem, "private"),
        (_pem(rsa.generate_private_key(65537, 1024)), "1024 bits"),
        (_pem(ec.generate_private_key(ec.SECP256K1())), "another"),
        (_pem(ed448.Ed448PrivateKey.generate()), "another"),
        (_pem(dsa.generate_private_key(1024)), "another"),
    ],
)
def test_what_is_no_key_or_too_weak(pem: bytes, why: str) -> None:
    with pytest.raises(BadKey, match=why):
        public_key(pem)


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
    ids=str,
)
def test_what_is_no_key_of_a_set(jwk: dict[str, object]) -> None:
    with pytest.raises(BadKey):
        from_jwk(jwk)


def test_a_huge_key_would_let_whoever_sends_tokens_choose_how_long_we_count() -> None:
    number = base64.urlsafe_b64encode(b"\xff" * 4096).decode().rstrip("=")
    with pytest.raises(BadKey):
        from_jwk({"kty": "RSA", "n": number, "e": "AQAB"})


def test_a_signer_fits_its_key() -> None:
    assert isinstance(signer("RS256"), Signer)
    assert signer("RS256").material is signer("PS512").material
