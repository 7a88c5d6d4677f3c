"""A certificate for the loopback address, and who trusts it."""

import ssl
from pathlib import Path

import trustme


def certify(folder: Path) -> ssl.SSLContext:
    """Write a certificate and its key into `tls/`; give a context that trusts its issuer."""
    issuer = trustme.CA()
    certificate = issuer.issue_cert("127.0.0.1", "localhost")
    (folder / "tls").mkdir()
    certificate.private_key_pem.write_to_path(folder / "tls" / "key.pem")
    for piece in certificate.cert_chain_pems:
        piece.write_to_path(folder / "tls" / "cert.pem", append=True)
    context = ssl.create_default_context()
    issuer.configure_trust(context)
    return context
