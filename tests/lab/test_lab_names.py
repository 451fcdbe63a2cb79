# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of the lab's internet, as a device gets them through the home's forwarder."""

import asyncio
from random import Random

import pytest

from spind.lab import SITES, Lab, LabError, Node, plan
from spind.lab.resolver import Answer, ResolveError, Resolver, build_query, parse_answer

pytestmark = pytest.mark.lab


def ask(node: Node, name: str, family: int, server: str = plan.GATEWAY4) -> Answer:
    return node.call(lambda: asyncio.run(Resolver(server, Random(name)).lookup(name, family)))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", [site.name for site in SITES])
def test_every_name_resolves(lab: Lab, name: str, family: int) -> None:
    answer = ask(lab.device("phone"), name, family)
    assert answer.rcode == 0
    assert set(answer.addresses) == {a for a in plan.resolve_site(name) if (":" in a) == (family == 6)}


@pytest.mark.parametrize("server", [plan.GATEWAY4, plan.GATEWAY6, plan.GATEWAY_ULA6, plan.DNS4, plan.DNS6])
def test_aliases_are_followed(lab: Lab, server: str) -> None:
    answer = ask(lab.device("phone"), "www.shop.test", 4, server)
    assert answer.aliases == ("shop.cdn.test", "edge.cdn.test")
    assert answer.addresses == (plan.server4(20),)


def test_one_address_has_several_names(lab: Lab) -> None:
    names = ("a.cdn.test", "b.cdn.test", "www.shop.test", "ads.tracker.test", "img.tv.test")
    assert {ask(lab.device("tv"), name, 6).addresses for name in names} == {(plan.server6(20),)}


def test_unknown_names_do_not_exist(lab: Lab) -> None:
    assert ask(lab.device("phone"), "nobody.cdn.test", 4).rcode == 3
    assert ask(lab.device("phone"), "nobody.example", 6).rcode == 3


def test_wild_names_all_exist(lab: Lab) -> None:
    assert ask(lab.device("phone"), "a.b.c.wild.test", 4).addresses == (plan.server4(29),)


def test_a_long_answer_comes_over_tcp(lab: Lab) -> None:
    phone = lab.device("phone")

    def over_udp() -> Answer:
        class Once(Resolver):
            async def _tcp(self, query: bytes) -> bytes:
                raise ResolveError("went to TCP")

        return asyncio.run(Once(plan.GATEWAY4, Random(1)).lookup("big.dns.test", 4))

    with pytest.raises(ResolveError, match="went to TCP"):
        phone.call(over_udp)
    assert len(ask(phone, "big.dns.test", 4).addresses) == 120


def test_devices_have_names_on_the_lan(lab: Lab) -> None:
    assert ask(lab.device("hub"), "camera.lan", 4).addresses == (lab.device("camera").ipv4,)


def test_a_name_can_get_other_addresses(lab: Lab) -> None:
    name = "moving.example.org"
    lab.set_name(name, [plan.server4(61), plan.server6(61)])
    assert ask(lab.device("tv"), name, 4, plan.DNS4).addresses == (plan.server4(61),)
    lab.set_name(name, [plan.server4(62)])
    assert ask(lab.device("tv"), name, 4, plan.DNS4).addresses == (plan.server4(62),)
    assert ask(lab.device("tv"), name, 6, plan.DNS4).addresses == ()
    lab.set_name(name, [])
    assert ask(lab.device("tv"), name, 4, plan.DNS4).rcode == 3
    with pytest.raises(LabError, match="name"):
        lab.set_name("cam.vendor.test", [plan.server4(61)])
    with pytest.raises(LabError, match="name"):
        lab.set_name("../../etc/hosts", [plan.server4(61)])


def test_a_bad_answer_is_one_error() -> None:
    good = build_query("a.test", 1, 5)
    answer = good[:2] + b"\x81\x80" + good[4:]
    assert parse_answer(answer, 5) == Answer(0, (), (), truncated=False)
    for length in range(len(answer)):
        with pytest.raises(ResolveError):
            parse_answer(answer[: length - 5 if length > 12 else length], 5)
    with pytest.raises(ResolveError, match="another question"):
        parse_answer(answer, 6)
