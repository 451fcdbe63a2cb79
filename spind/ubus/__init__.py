# SPDX-License-Identifier: GPL-2.0-or-later
"""OpenWrt's bus: its encoding (``blob``), its messages (``messages``), and a client (``client``).

Knows nothing of spind: what is offered on the bus is ``spind.ubus_api``'s business. Why there is a
client of our own is in docs/decisions/0009.
"""
