"""Tokens: which are accepted, and their grants."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from broker.auth import tokens
from broker.auth.grants import Grant
from broker.auth.jwks import key_from_jwk
from broker.auth.keys import VerificationKey, public_key, secret
from broker.auth.tokens import MAX_TOKEN_CHARS, NOT_BEFORE_LEEWAY_SECONDS, BadClaims, UnknownKey, Verifier
from broker.errors import Unauthorized
from tests.support.tokens import ASYMMETRIC, HMAC, OTHER_SECRET, SECRET, Signer, sign_any, signer
from tests.support.tokens import token_part as part

NOW = 1_800_000_000.0


def key_of(algorithm: str) -> VerificationKey:
    return secret(SECRET) if algorithm.startswith("HS") else public_key(signer(algorithm).public_pem)


ALGORITHMS = ("HS256", "HS384", "HS512", *ASYMMETRIC)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_grants_what_it_says(algorithm: str) -> None:
    token = signer(algorithm).token(
        ["a.*"], ["a.**", "_stats"], admin=True, sub="ann", jti="7", iat=NOW - 5, exp=NOW + 60, nbf=NOW - 60
    )
    assert Verifier([key_of(algorithm)]).verify(token, NOW) == Grant(
        publish=("a.*",),
        subscribe=("a.**", "_stats"),
        admin=True,
        subject="ann",
        token_id="7",
        issued_at=NOW - 5,
        expires_at=NOW + 60,
    )


def test_a_token_without_the_claim_grants_nothing() -> None:
    assert Verifier([key_of("HS256")]).verify(HMAC.sign({}), NOW) == Grant()


def test_any_of_the_keys_verifies() -> None:
    verifier = Verifier([secret(OTHER_SECRET), secret(SECRET), key_of("ES256"), key_of("RS256")])
    for algorithm in ("HS256", "ES256", "RS256"):
        verifier.verify(signer(algorithm).token(), NOW)
    verifier.verify(Signer("HS256", OTHER_SECRET).token(), NOW)


FORGED = {
    "empty": "",
    "no parts": "x",
    "two parts": "a.b",
    "garbage": "a.b.c",
    "no UTF-8": "\udcff.\udcff.\udcff",
    "long": HMAC.token(sub="x" * MAX_TOKEN_CHARS),
    "another secret": Signer("HS256", OTHER_SECRET).token(),
    "another key of the kind": Signer("HS384", OTHER_SECRET).token(),
    "none": jwt.encode({"sub": "x"}, "", "none"),
    "none, spelt otherwise": f"{part({'alg': 'NONE', 'typ': 'JWT'})}.{part({})}.",
    "no signature": HMAC.token().rpartition(".")[0] + ".",
    "claims exchanged": ".".join(
        [HMAC.token().split(".")[0], part({"broker": {"admin": True}}), HMAC.token().split(".")[2]]
    ),
    "algorithm is a list": f"{part({'alg': ['HS256']})}.{part({})}.xx",
    "unknown algorithm": f"{part({'alg': 'HS1'})}.{part({})}.xx",
    "critical extension": HMAC.sign({}, crit=["b64"], b64=True),
    "deep header": f"{part(b'[' * 3000)}.{part({})}.xx",
    "deep claims": ".".join([part({"alg": "HS256"}), part(b"[" * 3000), "xx"]),
    "claims are a list": HMAC.token().split(".")[0] + f".{part([])}.xx",
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_is_refused(name: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        Verifier([secret(SECRET)]).verify(FORGED[name], NOW)
    assert caught.value.error == "invalid_token"
    assert SECRET not in caught.value.detail


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_not_accepted_as_a_secret(algorithm: str) -> None:
    """Algorithm confusion. PyJWT refuses to sign this way, so the test signs by hand."""
    import hashlib
    import hmac

    verifier = Verifier([public_key(signer("RS256").public_pem), key_from_jwk(signer("RS256").jwk(kid="k"))])
    hashes = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
    for public in (signer("RS256").public_pem, signer("RS256").public_pem.strip()):
        for header in ({"alg": algorithm}, {"alg": algorithm, "kid": "k"}):
            signed = f"{part(header)}.{part({'broker': {'admin': True}})}"
            mac = hmac.new(public, signed.encode(), hashes[algorithm]).digest()
            with pytest.raises(Unauthorized):
                verifier.verify(f"{signed}.{part(mac)}", NOW)


@pytest.mark.parametrize(
    ("signed", "known"), [("RS256", "ES256"), ("PS512", "HS256"), ("ES256", "ES384"), ("HS256", "EdDSA")]
)
def test_a_key_verifies_its_own_algorithm_only(signed: str, known: str) -> None:
    with pytest.raises(UnknownKey):
        Verifier([key_of(known)]).verify(signer(signed).token(), NOW)


@pytest.mark.parametrize(
    "kid", ["../../etc/passwd", "http://127.0.0.1:1/jwks", "file:///dev/zero", "x' OR '1'='1", "", "x" * 500]
)
def test_a_key_id_is_only_compared(kid: str) -> None:
    verifier = Verifier([key_from_jwk(signer("ES256").jwk(kid="good"))])
    verifier.verify(signer("ES256").sign({}, kid="good"), NOW)
    verifier.verify(signer("ES256").sign({}), NOW)
    with pytest.raises(UnknownKey):
        verifier.verify(signer("ES256").sign({}, kid=kid), NOW)


@pytest.mark.parametrize("header", [{"jku": "http://127.0.0.1:1/"}, {"x5u": "http://127.0.0.1:1/"}])
def test_keys_named_in_a_token_are_ignored(header: dict[str, str]) -> None:
    Verifier([secret(SECRET)]).verify(HMAC.sign({}, **header), NOW)
    own = Signer("ES256", signer("ES256").material)
    with pytest.raises(Unauthorized):
        Verifier([secret(SECRET)]).verify(own.sign({}, jwk=own.jwk(), **header), NOW)


TIMES = [
    ({"exp": NOW + 0.5}, True),
    ({"exp": NOW}, False),
    ({"exp": NOW - 1}, False),
    ({"nbf": NOW}, True),
    ({"nbf": NOW + NOT_BEFORE_LEEWAY_SECONDS}, True),
    ({"nbf": NOW + NOT_BEFORE_LEEWAY_SECONDS + 1}, False),
    ({"iat": NOW + 3600}, True),
]


@pytest.mark.parametrize(("claims", "good"), TIMES, ids=str)
def test_times(claims: dict[str, Any], good: bool) -> None:
    verifier = Verifier([secret(SECRET)])
    token = HMAC.sign(claims)
    for _ in range(2):  # verified, then from the cache
        if good:
            verifier.verify(token, NOW)
        else:
            with pytest.raises(Unauthorized):
                verifier.verify(token, NOW)


def test_a_cached_token_expires() -> None:
    verifier = Verifier([secret(SECRET)])
    token = HMAC.sign({"exp": NOW + 10})
    verifier.verify(token, NOW)
    with pytest.raises(Unauthorized, match="expired"):
        verifier.verify(token, NOW + 10)


AUDIENCES = [
    (None, {}, True),
    (None, {"aud": "else"}, False),
    ("here", {"aud": "here"}, True),
    ("here", {"aud": ["else", "here"]}, True),
    ("here", {"aud": "else"}, False),
    ("here", {"aud": []}, False),
    ("here", {"aud": 7}, False),
    ("here", {}, False),
]


@pytest.mark.parametrize(("audience", "claims", "good"), AUDIENCES, ids=str)
def test_audience(audience: str | None, claims: dict[str, Any], good: bool) -> None:
    _judge(Verifier([secret(SECRET)], audience=audience), claims, good=good)


@pytest.mark.parametrize(
    ("issuer", "claims", "good"),
    [
        (None, {"iss": "any"}, True),
        ("ours", {"iss": "ours"}, True),
        ("ours", {"iss": "theirs"}, False),
        ("ours", {}, False),
    ],
    ids=str,
)
def test_issuer(issuer: str | None, claims: dict[str, Any], good: bool) -> None:
    _judge(Verifier([secret(SECRET)], issuer=issuer), claims, good=good)


@pytest.mark.parametrize(
    "claims",
    [
        {"broker": "all"},
        {"broker": None},
        {"broker": []},
        {"broker": {"publish": "a"}},
        {"broker": {"publish": None}},
        {"broker": {"publish": [7]}},
        {"broker": {"publish": [["a"]]}},
        {"broker": {"subscribe": ["a..b"]}},
        {"broker": {"subscribe": ["**.a"]}},
        {"broker": {"subscribe": ["a*"]}},
        {"broker": {"subscribe": [""]}},
        {"broker": {"admin": "yes"}},
        {"broker": {"admin": 1}},
        {"exp": "soon"},
        {"exp": True},
        {"exp": [1]},
        {"nbf": "x"},
        {"iat": "x"},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": 10**400},
        {"nbf": -(10**400)},
        {"iat": 10**400},
        {"sub": 7.5},
        {"jti": True},
        {"sub": ["ann"]},
        {"jti": 10**1000},
        {"sub": ""},
        {"jti": ""},
        {"sub": "x" * 1001},
        {"jti": "x" * 1001},
        {"sub": "\ud800"},
        {"jti": "\udfff"},
    ],
    ids=lambda claims: ascii(claims)[:40],
)
def test_malformed_claims_are_refused(claims: dict[str, Any]) -> None:
    (name,) = claims
    with pytest.raises(BadClaims, match=f"'{name}"):
        Verifier([secret(SECRET)]).verify(sign_any(claims), NOW)


@pytest.mark.parametrize("value", [7, 0, -7, 10**30])
def test_an_integer_is_a_subject_too(value: int) -> None:
    granted = Verifier([secret(SECRET)]).verify(sign_any({"sub": value, "jti": value}), NOW)
    assert (granted.subject, granted.token_id) == (str(value), str(value))


@pytest.mark.parametrize(
    ("expected", "claims", "named"),
    [
        ({}, {"aud": "events"}, "'aud'.*no jwt_audience"),
        ({"audience": "events"}, {"aud": "else"}, "'aud' does not contain"),
        ({"audience": "events"}, {"aud": 7}, "'aud' does not contain"),
        ({"audience": "events"}, {}, "lacks the claim 'aud'"),
        ({"issuer": "login"}, {"iss": "else"}, "'iss' is not"),
        ({"issuer": "login"}, {}, "lacks the claim 'iss'"),
    ],
)
def test_a_refusal_names_the_claim(expected: dict[str, str], claims: dict[str, Any], named: str) -> None:
    with pytest.raises(BadClaims, match=named):
        Verifier([secret(SECRET)], **expected).verify(sign_any(claims), NOW)


def test_unknown_members_of_the_claim_are_ignored() -> None:
    _judge(Verifier([secret(SECRET)]), {"broker": {"publish": ["a"], "color": "blue"}}, good=True)


def _judge(verifier: Verifier, claims: dict[str, Any], *, good: bool) -> None:
    token = sign_any(claims)
    if good:
        verifier.verify(token, NOW)
        return
    with pytest.raises(Unauthorized) as caught:
        verifier.verify(token, NOW)
    assert caught.value.error == "invalid_token"


def test_fetched_keys_replace_earlier_ones_and_clear_the_cache() -> None:
    verifier = Verifier([])
    old, new = signer("ES256"), signer("EdDSA")
    with pytest.raises(UnknownKey):
        verifier.verify(old.sign({}, kid="1"), NOW)
    verifier.set_fetched_keys([key_from_jwk(old.jwk(kid="1"))])
    verifier.verify(old.sign({}, kid="1"), NOW)
    verifier.set_fetched_keys([key_from_jwk(new.jwk(kid="2"))])
    with pytest.raises(UnknownKey):
        verifier.verify(old.sign({}, kid="1"), NOW)
    verifier.verify(new.sign({}, kid="2"), NOW)


def test_an_unknown_key_id_is_reported_beside_configured_keys() -> None:
    with pytest.raises(UnknownKey):
        Verifier([key_of("RS256")]).verify(
            Signer("RS256", rsa.generate_private_key(65537, 2048)).sign({}, kid="new"), NOW
        )


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_CACHED_TOKENS", 3)
    monkeypatch.setattr(tokens, "MAX_CACHED_CHARS", 1000)
    verifier = Verifier([secret(SECRET)])
    for number in range(10):
        verifier.verify(HMAC.token(sub=str(number)), NOW)
    assert len(verifier._cache) == 3
    verifier.verify(HMAC.token(other="x" * 1500), NOW)
    assert (len(verifier._cache), verifier._cached_chars) == (0, 0)
    with pytest.raises(Unauthorized):
        verifier.verify(Signer("HS256", OTHER_SECRET).token(), NOW)
    assert len(verifier._cache) == 0


@given(st.text(max_size=200), st.integers(0, 2), st.binary(max_size=30))
def test_any_text_is_refused(text: str, dots: int, tail: bytes) -> None:
    """Any text is refused with `Unauthorized`, never with a library's error."""
    for token in (text, ".".join([text] * (dots + 1)), f"{part({'alg': 'HS256'})}.{part(tail)}.{part(tail)}"):
        with pytest.raises(Unauthorized):
            Verifier([secret(SECRET), key_of("ES256")]).verify(token, NOW)
