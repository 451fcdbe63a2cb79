# SPDX-License-Identifier: GPL-2.0-or-later
"""Parsers: bytes from the network or the kernel in, plain values out.

Everything here is pure. Incomplete input is ``None``, malformed input is
:class:`~spind.wire.errors.WireError`; any other exception that escapes is a bug.
"""
