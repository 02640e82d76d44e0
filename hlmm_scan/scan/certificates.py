"""A certificate made for one cluster, by which its processes know one another and nobody else.

Whoever reaches a scheduler that asks for none can run code as the one who started it, and any
account of a machine reaches what listens on its loopback.
"""

# distributed is typed in part only.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIFETIME = timedelta(days=3650)
"""Longer than any scan. It protects nothing: the key goes with the processes that hold it."""

CLOCK_ERROR = timedelta(days=2)
"""By how much clocks of nodes may be wrong, or be set back meanwhile."""


def own_security() -> Any:
    """Return a ``distributed.Security`` with a new key that is in this process's memory alone.

    As ``Security.temporary()``, but for an elliptic curve: to find an RSA key takes as long as to
    start a worker. One certificate serves all roles and signs itself: that it is this very one is
    what each side asks of the other.
    """
    from distributed.security import Security

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hlmm-scan")])
    now = datetime.now(tz=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_ERROR)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_text = certificate.public_bytes(serialization.Encoding.PEM).decode()
    key_text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    roles = ("client", "scheduler", "worker")
    return Security(
        require_encryption=True,
        tls_ca_file=certificate_text,
        **{f"tls_{role}_cert": certificate_text for role in roles},
        **{f"tls_{role}_key": key_text for role in roles},
    )
