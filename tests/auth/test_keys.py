"""Which keys are accepted, and for which algorithms."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from trustme import CA

from broker.auth.keys import RSA_ALGORITHMS, BadKey, public_key, secret
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
def test_the_length_of_a_secret_decides_its_algorithms(size: int, algorithms: set[str]) -> None:
    assert secret("x" * size).algorithms == algorithms


@pytest.mark.parametrize("text", ["", "short", "x" * 31, "ü" * 15])
def test_a_short_secret_is_refused(text: str) -> None:
    with pytest.raises(BadKey, match="bytes"):
        secret(text)


@pytest.mark.parametrize("text", [signer("RS256").public_pem.decode(), "ssh-rsa AAAA" + "x" * 60])
def test_a_public_key_is_refused_as_a_secret(text: str) -> None:
    with pytest.raises(BadKey, match="jwt_public_keys"):
        secret(text)


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_public_key_pins_its_algorithms(algorithm: str) -> None:
    pinned = RSA_ALGORITHMS if algorithm[:2] in ("RS", "PS") else {algorithm}
    key = public_key(signer(algorithm).public_pem)
    assert (key.algorithms, key.id) == (pinned, None)


def test_a_certificate_contains_a_key() -> None:
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
        (_pem(ec.generate_private_key(ec.SECP256K1())), "another kind"),
        (_pem(ed448.Ed448PrivateKey.generate()), "another kind"),
        (_pem(dsa.generate_private_key(1024)), "another kind"),
    ],
)
def test_other_texts_and_weak_keys_are_refused(pem: bytes, why: str) -> None:
    with pytest.raises(BadKey, match=why):
        public_key(pem)


def test_a_signer_fits_its_key() -> None:
    assert isinstance(signer("RS256"), Signer)
    assert signer("RS256").material is signer("PS512").material
