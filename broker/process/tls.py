"""The TLS context of the listeners, from the files that the settings name."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NoReturn

from broker.process.setup import StartError
from broker.settings import Settings


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The context, or None without TLS.

    Raises:
        StartError: a file can't be used; the text names its setting, its path and the problem.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    cert, key = settings.tls_cert, settings.tls_key
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    def refuse_passphrase() -> NoReturn:
        raise StartError(f"tls_key: {key} is encrypted; name a file with the decrypted key")

    try:
        context.load_cert_chain(cert, key, refuse_passphrase)
    except OSError as error:
        raise StartError(_problem(cert, key, error)) from None
    return context


def _problem(cert: Path, key: Path, error: OSError) -> str:
    """The fault of the files. OpenSSL's error says neither which file it means nor that a file has no PEM."""
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    if reason == "KEY_VALUES_MISMATCH":
        return f"tls_key: {key} is not the key of the certificate in {cert}"
    if b"-----BEGIN CERTIFICATE-----" not in _read("tls_cert", cert):
        return f"tls_cert: {cert} has no certificate in PEM form"
    if b"PRIVATE KEY-----" not in _read("tls_key", key):
        return f"tls_key: {key} has no private key in PEM form"
    return f"tls_cert, tls_key: can't use {cert} and {key}: {reason or 'one of them is damaged'}"


def _read(setting: str, path: Path) -> bytes:
    """The content of a file; of a pipe nothing, because OpenSSL has read it."""
    try:
        return b"" if path.is_fifo() else path.read_bytes()
    except OSError as error:
        raise StartError(f"{setting}: can't read {path}: {error.strerror}") from None
