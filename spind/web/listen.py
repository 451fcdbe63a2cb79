# SPDX-License-Identifier: GPL-2.0-or-later
"""What the web interface listens with: bound sockets, TLS, and the names that this machine has.

Must not know what is served, nor the HTTP library.
"""

import socket
import ssl
from ipaddress import ip_address


def bind(address: str, port: int) -> socket.socket:
    """A listening socket; ``OSError`` where there can be none."""
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(128)
    except BaseException:
        sock.close()
        raise
    return sock


def tls_context(certificate: str, key: str) -> ssl.SSLContext | None:
    """TLS 1.2 or later with this certificate; ``None`` where none is given, ``ValueError`` if it is bad."""
    if not certificate and not key:
        return None
    if not (certificate and key):
        raise ValueError("spinweb_tls_certificate_file and spinweb_tls_key_file need each other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # With an empty password, OpenSSL refuses an encrypted key, instead of asking at the terminal.
        context.load_cert_chain(certificate, key, password=b"")
    except OSError as error:
        raise ValueError(f"the certificate {certificate} with the key {key}: {error}") from error
    return context


def own_names() -> tuple[str, ...]:
    """Names under which a home's DNS knows this machine."""
    name = socket.gethostname()
    return (name, f"{name}.lan") if name else ()
