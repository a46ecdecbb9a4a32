"""`broker token`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from time import time

import jwt
import pytest

from broker.auth.keys import secret
from tests.cli.commands import run
from tests.support.run_here import run_here
from tests.support.tokens import ASYMMETRIC, HMAC, OTHER_SECRET, SECRET, Signer, sign_any, signer

SECRETS = {"BROKER_JWT_SECRETS": json.dumps([SECRET, OTHER_SECRET])}


def token(*words: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return run_here("token", *words, stdin=stdin, **variables)


def test_a_shell_can_pass_a_secret_and_a_token_on() -> None:
    secrets = run("", "token", "--new-secret").stdout.decode()
    minted = run("", "token", "--publish", "a", variables={"BROKER_JWT_SECRETS": secrets}).stdout
    done = run("", "token", "--explain", "-", stdin=minted, variables={"BROKER_JWT_SECRETS": secrets})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"ACCEPTED. The bearer may:\n  publish to a\n")


def test_a_new_token_has_the_requested_claims() -> None:
    start = int(time())
    done = token(
        "--publish", "orders.*", "--subscribe", "**", "--subscribe", "_stats", "--expires", "2h", **SECRETS
    )
    claims = jwt.decode(done.stdout.strip(), SECRET, algorithms=["HS256"])
    assert claims["broker"] == {"publish": ["orders.*"], "subscribe": ["**", "_stats"]}
    assert start <= claims["iat"] <= time()
    assert claims["exp"] == claims["iat"] + 7200


def test_nothing_is_granted_by_default() -> None:
    claims = jwt.decode(token(**SECRETS).stdout.strip(), SECRET, algorithms=["HS256"])
    assert claims["broker"] == {}
    assert claims["exp"] == claims["iat"] + 3600


def test_all_claims() -> None:
    done = token(
        *("--admin", "--sub", "ann", "--jti", "7", "--expires", "never", "--audience", "events"),
        **SECRETS,
        BROKER_JWT_ISSUER="https://login.example",
    )
    claims = jwt.decode(
        done.stdout.strip(), SECRET, algorithms=["HS256"], audience="events", issuer="https://login.example"
    )
    del claims["iat"]
    assert claims == {
        "sub": "ann",
        "jti": "7",
        "aud": "events",
        "iss": "https://login.example",
        "broker": {"admin": True},
    }


@pytest.mark.parametrize("algorithm", [name for name in ASYMMETRIC if name != "PS512"])
def test_a_private_key_signs(tmp_path: Path, algorithm: str) -> None:
    (tmp_path / "private.pem").write_bytes(signer(algorithm).private_pem)
    (tmp_path / "public.pem").write_bytes(signer(algorithm).public_pem)
    minted = token("--key", str(tmp_path / "private.pem"), "--kid", "k1", "--subscribe", "a").stdout.strip()
    assert jwt.get_unverified_header(minted)["kid"] == "k1"
    done = token("--explain", minted, BROKER_JWT_PUBLIC_KEYS=str(tmp_path / "public.pem"))
    assert done.returncode == 0
    assert "subscribe to a" in done.stdout


def test_a_new_secret_is_accepted_and_unique() -> None:
    first, second = (token("--new-secret").stdout.strip() for _ in range(2))
    assert first != second
    (text,) = json.loads(first)
    assert secret(text).algorithms == {"HS256", "HS384", "HS512"}
    minted = token("--publish", "a", BROKER_JWT_SECRETS=first)
    assert minted.returncode == 0


@pytest.mark.parametrize(
    ("words", "environment", "named"),
    [
        ((), {}, "--new-secret"),
        (("--publish", "a..b"), SECRETS, "--publish"),
        (("--subscribe", "**.a"), SECRETS, "--subscribe"),
        (("--expires", "soon"), SECRETS, "--expires"),
        (("--expires", "0s"), SECRETS, "--expires"),
        (("--explain", "x", "--new-secret"), SECRETS, "--new-secret"),
        (("--sub", ""), SECRETS, "--sub"),
        (("--jti", "x" * 1001), SECRETS, "--jti"),
        (("--key", "/nowhere.pem"), {}, "/nowhere.pem"),
        ((), {"BROKER_JWT_SECRETS": '["hush"]'}, "jwt_secrets"),
        ((), {"BROKER_JWT_SECRETS": "hush"}, "jwt_secrets"),
    ],
    ids=str,
)
def test_wrong_usage_is_reported_in_one_line(
    words: tuple[str, ...], environment: dict[str, str], named: str
) -> None:
    done = token(*words, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert named in line
    assert "hush" not in line, "a secret isn't shown"


def test_a_token_is_explained() -> None:
    minted = HMAC.token(["orders.*"], ["**"], admin=True, sub="ann", exp=int(time()) + 60)
    for done in (
        token("--explain", minted, **SECRETS),
        token("--explain", "-", stdin=minted + "\n", **SECRETS),
    ):
        assert done.returncode == 0
        assert '"sub": "ann"' in done.stdout
        assert "valid until: " in done.stdout
        assert done.stdout.splitlines()[-4:] == [
            "ACCEPTED. The bearer may:",
            "  publish to orders.*",
            "  subscribe to **",
            "  do everything that operators may: list, delete, disconnect, revoke, metrics",
        ]
        assert SECRET not in done.stdout


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": 1}, "expired"),
        ({"nbf": 1 << 40}, "is not valid yet"),
        ({"aud": "else"}, "audience"),
        ({"broker": {"publish": ["a..b"]}}, "'broker.publish' contains an invalid pattern"),
        ({"jti": ""}, "'jti' must be a string"),
    ],
    ids=["expired", "not yet valid", "audience", "pattern", "id"],
)
def test_the_reason_of_a_refusal_is_explained(claims: dict[str, object], why: str) -> None:
    done = token("--explain", HMAC.sign(claims), **SECRETS)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("REFUSED: ")
    assert why in done.stdout


def test_a_bad_claim_is_explained_without_keys_too() -> None:
    done = token("--explain", HMAC.sign({"broker": {"publish": "orders"}}))
    assert done.returncode == 1
    assert "REFUSED: The token's 'broker.publish' must be a list" in done.stdout


def test_a_numeric_subject_is_explained() -> None:
    done = token("--explain", sign_any({"sub": 7, "broker": {"publish": ["a"]}}), **SECRETS)
    assert (done.returncode, "ACCEPTED" in done.stdout) == (0, True)


def test_a_token_signed_with_another_secret_is_refused() -> None:
    done = token("--explain", Signer("HS256", "x" * 40).token(), **SECRETS)
    assert (done.returncode, "REFUSED: " in done.stdout) == (1, True)


def test_a_token_is_explained_without_keys_but_not_verified() -> None:
    done = token("--explain", HMAC.token())
    assert done.returncode == 0
    assert "not verified" in done.stdout


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "a" * 10_000])
def test_text_that_is_not_a_token_is_reported(text: str) -> None:
    done = token("--explain", "-", stdin=text, **SECRETS)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1


def test_control_characters_do_not_reach_the_terminal() -> None:
    done = token("--explain", HMAC.token(sub="\x1b[31m\u202e"), **SECRETS)
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout


@pytest.mark.parametrize("seconds", [10**400, 1e300, -1e300], ids=["integer", "late", "early"])
def test_an_impossible_time_is_printed_as_a_number(seconds: float) -> None:
    done = token("--explain", HMAC.sign({"iat": seconds}), **SECRETS)
    assert ("(not a date)" in done.stdout, done.stderr) == (True, "")
