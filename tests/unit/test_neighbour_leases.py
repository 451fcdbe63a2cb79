# SPDX-License-Identifier: GPL-2.0-or-later
"""Lease files, whose host names the devices choose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.wire.leases import MAX_LEASES, Lease, clean_name, parse_leases

MAC = b"\xaa\xbb\xcc\xdd\xee\xff"
ADDRESS = b"\xc0\0\2\5"


def test_dnsmasq() -> None:
    text = (
        "1700000000 aa:bb:cc:dd:ee:ff 192.0.2.5 Toms-Phone 01:aa:bb:cc:dd:ee:ff\n"
        "0 AA:BB:CC:DD:EE:FF 192.0.2.5 * *\n"
        "duid 00:01:00:01:2a:2b:2c:2d:aa:bb:cc:dd:ee:ff\n"
        "1700000000 16777216 2001:db8::5 phone 00:01:00:01:2a:2b:2c:2d:aa:bb:cc:dd:ee:ff\n"
    )
    assert parse_leases(text) == [
        Lease(1700000000, MAC, ADDRESS, "Toms-Phone"),
        Lease(0, MAC, ADDRESS, ""),
    ]


def test_odhcpd() -> None:
    text = (
        "# br-lan aabbccddeeff ipv4 plug 1700000000 c0000205 32 192.0.2.5/32\n"
        "192.0.2.5\tplug.lan\tplug\n"
        "# br-lan aabbccddeeff ipv4 - -1 c0000205 32 192.0.2.5/32\n"
        "# br-lan 00030001aabbccddeeff 1 plug 1700000000 5 128 2001:db8::5/128\n"
    )
    assert parse_leases(text) == [Lease(1700000000, MAC, ADDRESS, "plug"), Lease(0, MAC, ADDRESS, "")]


@pytest.mark.parametrize("name", ["plug", "Toms-Phone", "a", "living room TV", "a_b.c-d", "x" * 63])
def test_names_are_kept(name: str) -> None:
    assert clean_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "*", "-", "x" * 64, "a\nb", "a\x1b[2J", "<b>", "a;b", "-a", "a ", "\u202eb", "é", "a\0"]
)
def test_names_that_could_do_harm_are_not(name: str) -> None:
    assert clean_name(name) == ""


@given(st.text(max_size=400) | st.lists(st.text(" 0123456789abcdef:.#-ipv4\n", max_size=60)).map("\n".join))
def test_any_text_is_read(text: str) -> None:
    for lease in parse_leases(text):
        assert len(lease.mac) == 6
        assert len(lease.address) in (4, 16)
        assert lease.hostname.isprintable()
        assert lease.expires >= 0


def test_a_file_is_read_as_far_as_its_bound() -> None:
    assert len(parse_leases("0 aa:bb:cc:dd:ee:ff 192.0.2.5 * *\n" * (MAX_LEASES + 5))) == MAX_LEASES
