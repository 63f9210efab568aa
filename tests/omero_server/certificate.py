"""A self-signed certificate for the encrypted endpoints, made by the `openssl` command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

PASSWORD = "for-tests-only"


def can_make() -> bool:
    """Whether the `openssl` command is there."""
    return shutil.which("openssl") is not None


def make(folder: Path) -> tuple[Path, Path]:
    """A PKCS#12 file for the server and the certificate as PEM for clients that verify it (127.0.0.1, localhost)."""
    key, certificate, bundle = folder / "key.pem", folder / "certificate.pem", folder / "server.p12"
    _run(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=localhost",
        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate),
    )  # fmt: skip
    _run(
        "pkcs12",
        "-export",
        "-inkey",
        str(key),
        "-in",
        str(certificate),
        "-passout",
        f"pass:{PASSWORD}",
        "-out",
        str(bundle),
    )
    key.unlink()
    return bundle, certificate


def _run(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
