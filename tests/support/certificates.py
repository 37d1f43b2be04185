"""Certificates for servers of the tests on this machine, signed by a CA that nobody else knows."""

from __future__ import annotations

from pathlib import Path

import trustme


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Files of the CA's certificate, and of a server's certificate and key."""
    folder.mkdir(parents=True)
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    ca, cert, key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    authority.cert_pem.write_to_path(ca)
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(cert, append=number > 0)
    certificate.private_key_pem.write_to_path(key)
    return ca, cert, key
