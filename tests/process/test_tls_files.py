"""A start with useless TLS files: one line that names the file and the problem."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trustme

from tests.support.broker_process import refused_start


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a certificate and its key, another key, an encrypted one, a text and a folder."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(tmp_path / "other.pem")
    subprocess.run(
        ["openssl", "pkey", "-in", "key.pem", "-aes256", "-passout", "pass:x", "-out", "encrypted.pem"],
        cwd=tmp_path,
        check=True,
    )
    key = (tmp_path / "key.pem").read_text()
    (tmp_path / "damaged.pem").write_text(key.replace("\n", "", 3))
    (tmp_path / "text").write_text("hello\n")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("cert", "key", "setting", "why"),
    [
        ("none", "key.pem", "tls_cert", "No such file or directory"),
        ("cert.pem", "none", "tls_key", "No such file or directory"),
        ("cert.pem", "folder", "tls_key", "Is a directory"),
        ("text", "key.pem", "tls_cert", "has no certificate in PEM form"),
        ("key.pem", "cert.pem", "tls_cert", "has no certificate in PEM form"),
        ("cert.pem", "text", "tls_key", "has no private key in PEM form"),
        ("cert.pem", "other.pem", "tls_key", "is not the key of the certificate"),
        ("cert.pem", "encrypted.pem", "tls_key", "is encrypted"),
        ("cert.pem", "damaged.pem", "tls_key", "one of them is damaged"),
    ],
)
def test_the_line_names_the_file_and_the_problem(
    files: Path, cert: str, key: str, setting: str, why: str
) -> None:
    line = refused_start("--tls-cert", str(files / cert), "--tls-key", str(files / key))
    named = cert if setting == "tls_cert" else key
    assert f"{setting}: " in line
    assert str(files / named) in line
    assert why in line
    assert "_ssl.c" not in line
