# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's certificate authority and the certificates of its internet, made by openssl(1).

One key serves all leaves: it protects nothing, and every process saved makes a lab start sooner.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from spind.lab.errors import LabError
from spind.lab.patience import patient

_CONFIG = """\
[req]
distinguished_name = name
prompt = no
[name]
CN = spind lab
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical,CA:FALSE
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def make(directory: Path, leaves: Mapping[str, Sequence[str]]) -> None:
    """Fill ``directory`` with ``ca.pem``, ``leaf.key`` and ``<key>.pem`` per entry of ``leaves``.

    A leaf names all the host names given for it, as subject alternative names.
    """
    (directory / "openssl.cnf").write_text(_CONFIG)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "leaf"):
        section = "authority" if name == "ca" else "leaf"
        out = ("-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", "/CN=spind lab CA")
        _finish(_openssl(directory, (*key, *out, "-extensions", section)))
    running = []
    for name, hosts in leaves.items():
        arguments = (
            *("-key", "leaf.key", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", f"{name}.pem"),
            *("-subj", f"/CN={hosts[0]}", "-extensions", "leaf"),
            *("-addext", "subjectAltName=" + ",".join(f"DNS:{host}" for host in hosts)),
        )
        running.append(_openssl(directory, arguments))
    for process in running:
        _finish(process)


def _openssl(directory: Path, arguments: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["openssl", "req", "-x509", "-config", "openssl.cnf", "-days", "30", *arguments],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=patient(60))
    if process.returncode:
        raise LabError(f"openssl failed: {errors.strip()}")
