# SPDX-License-Identifier: GPL-2.0-or-later
"""The web interface: a page, REST, JSON-RPC, live events and downloads, all over HTTP.

``server`` is the only module that knows sockets and the HTTP library; what it hands on are ``messages``.
"""
