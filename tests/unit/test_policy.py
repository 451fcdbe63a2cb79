# SPDX-License-Identifier: GPL-2.0-or-later
"""Policy: what it tells the kernel is what it says itself, for every packet."""

from collections.abc import Iterable
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.model import Address, Mac, parse_address, parse_mac
from spind.policy import Policy
from spind.profiles import BUILTIN
from spind.rules import Rule
from spind.ruleset import EVERYBODY, Action, Marks, Placement, Ruleset, Shape

PLACEMENT = Placement("router", ("br-lan",), Marks(1, 2, 4), 77)
CAMERA, PHONE, PLUG = (parse_mac(f"02:00:00:00:08:1{n}") for n in range(3))
DEVICES = {
    CAMERA: ("192.168.8.10", "2001:db8:8::10"),
    PHONE: ("192.168.8.11", "2001:db8:8::11"),
    PLUG: ("192.168.8.12",),
}
HOME = tuple(
    (n.network_address.packed, n.prefixlen) for n in map(ip_network, ("192.168.8.0/24", "2001:db8:8::/64"))
)
REMOTES = (
    "198.18.0.1",
    "198.18.0.2",
    "198.18.1.1",
    "10.9.0.1",
    "2001:db8:2::1",
    "192.168.8.11",
    "192.168.8.12",
)
NAMES = ("a.cdn.test", "ads.tracker.test", "www.shop.test", "x.ads.tracker.test")


class Known:
    """DNS answers that somebody saw."""

    def __init__(self, answers: Iterable[tuple[Address, str, float]] = ()) -> None:
        self.answers = list(answers)

    def at(self, address: Address) -> list[tuple[str, float]]:
        return [(name, expires) for a, name, expires in self.answers if a == address]

    def everything(self) -> list[tuple[Address, str, float]]:
        return self.answers


def kernel(ruleset: Ruleset, mac: Mac, address: Address, protocol: int, port: int) -> Action:
    """What a back-end does with a device's packet to a peer, by the words of ``ruleset``."""
    for step in ruleset.classes[ruleset.macs.get(mac, EVERYBODY)]:
        if step.protocol and step.protocol != protocol:
            continue
        if step.set:
            elements = ruleset.sets[step.set]
            shape = ruleset.shapes[step.set]
            if shape is Shape.ADDRESS:
                hit = address in elements
            elif shape is Shape.ADDRESS_PORT:
                hit = (address, protocol, port) in elements
            elif shape is Shape.PORT:
                hit = (protocol, port) in elements
            else:
                rest = (protocol, port) if shape is Shape.PREFIX_PORT else ()
                value, size = int.from_bytes(address, "big"), len(address)
                hits = [
                    e
                    for e in elements
                    if len(e[0]) == size
                    and int.from_bytes(e[0], "big") >> size * 8 - e[1] == value >> size * 8 - e[1]
                    and e[2:] == rest
                ]
                assert len(hits) <= 1, "prefixes of a set overlap"
                hit = bool(hits)
            if not hit:
                continue
        return step.action
    return Action.ALLOW


def prefix(text: str) -> tuple[Address, int]:
    network = ip_network(text)
    return network.network_address.packed, network.prefixlen


def policy(*rules: Rule, known: Known | None = None, profiles: dict[Mac, str] | None = None) -> Policy:
    made = Policy(PLACEMENT, known or Known())
    made.set_profiles(BUILTIN)
    made.set_home(HOME)
    for mac, addresses in DEVICES.items():
        made.set_device(mac, (profiles or {}).get(mac, ""), map(parse_address, addresses))
    for number, rule in enumerate(rules, 1):
        made.add(rule._replace(id=number))
    made.take()
    return made


def says(made: Policy, mac: Mac, remote: str, *, name: str = "", protocol: int = 6, port: int = 443) -> str:
    rule = made.decide(mac, name, parse_address(remote), protocol, port)
    return rule.action if rule is not None else "allow"


rules = (
    st.tuples(
        st.sampled_from(["block", "allow"]),
        st.sampled_from([None, CAMERA, PHONE]),
        st.sampled_from(["owner", "provider", "detector"]),
    )
    .map(lambda chosen: Rule(0, chosen[0], chosen[1], author=chosen[2]))
    .flatmap(
        lambda rule: st.one_of(
            st.just({}),
            st.sampled_from(["tracker.test", "ads.tracker.test", "a.cdn.test"]).map(lambda d: {"domain": d}),
            st.sampled_from(["tracker.test", "198.18.0.2", "02:00:00:00:08:12"]).map(lambda n: {"node": n}),
            st.sampled_from(
                [
                    "198.18.0.0/15",
                    "198.18.0.0/24",
                    "198.18.0.1/32",
                    "10.0.0.0/8",
                    "2001:db8:2::/48",
                    "192.168.8.11/32",
                ]
            ).map(lambda p: {"prefix": prefix(p)}),
        ).flatmap(
            lambda party: st.sampled_from(
                [{}, {}, {"port": 443}, {"port": 53, "protocol": 17}, {"protocol": 17}, {"protocol": 1}]
            ).map(lambda service: rule._replace(**party, **service))
        )
    )
)
answers = st.lists(
    st.tuples(st.sampled_from(REMOTES[:5]).map(parse_address), st.sampled_from(NAMES), st.just(100.0)),
    max_size=6,
)


def check(made: Policy, known: Known) -> None:
    """The kernel's judgement of each packet is that of ``decide`` for each name it may be to."""
    ruleset = made.ruleset
    for mac in DEVICES:
        for remote in map(parse_address, REMOTES):
            names = {name for a, name, _ in known.answers if a == remote} or {""}
            for protocol, port in ((6, 443), (6, 80), (17, 53), (17, 443), (1, 0), (47, 0)):
                action = kernel(ruleset, mac, remote, protocol, port)
                wanted = set()
                for name in names:
                    rule = made.decide(mac, name, remote, protocol, port)
                    wanted.add(rule.action if rule else "allow")
                if action is Action.INSPECT:
                    assert made.inspects(mac, remote)
                    continue
                assert wanted == {str(action)}, (mac, remote, protocol, port, names)


@settings(max_examples=400, deadline=None)
@given(st.lists(rules, max_size=6), answers, st.lists(st.tuples(st.booleans(), rules), max_size=4), st.data())
def test_kernel_does_what_decide_says(
    first: list[Rule], seen: list, later: list, data: st.DataObject
) -> None:
    known = Known(seen)
    made = policy(*first, known=known)
    for address, name, expires in seen:
        made.learn(address, name, expires)
    profiles = data.draw(
        st.lists(st.tuples(st.sampled_from([CAMERA, PLUG]), st.sampled_from(["", *BUILTIN])), max_size=2)
    )
    for mac, profile in profiles:
        made.set_device(mac, profile, map(parse_address, DEVICES[mac]))
    made.take()
    check(made, known)
    for number, (add, rule) in enumerate(later):
        if add:
            made.add(rule._replace(id=100 + number))
        elif made.ids:
            made.discard(min(made.ids))
        made.take()
        check(made, known)


def test_a_class_to_which_names_matter_no_more_has_no_steps_about_names() -> None:
    known = Known([(parse_address("198.18.0.1"), "ads.tracker.test", 100.0)])
    made = policy(
        Rule(0, "allow", domain="tracker.test"),
        Rule(0, "block", domain="tracker.test", port=443),
        Rule(0, "block", CAMERA),
        known=known,
    )
    made.learn(*known.answers[0])
    made.take()
    check(made, known)
    made.discard(1)  # what is left for the camera is blocked, by whatever name
    assert made.take().restructured
    check(made, known)


@settings(max_examples=150, deadline=None)
@given(st.lists(rules, max_size=5), answers, st.lists(rules, max_size=3))
def test_changes_lead_from_one_state_to_the_next(first: list[Rule], seen: list, later: list) -> None:
    """Whoever only follows element changes between two rewritings has the same sets in the end."""
    known = Known(seen)
    made = policy(*first, known=known)
    followed = {name: set(elements) for name, elements in made.ruleset.sets.items()}
    macs, addresses = dict(made.ruleset.macs), dict(made.ruleset.addresses)
    for number, rule in enumerate(later):
        made.add(rule._replace(id=50 + number))
        for address, name, expires in seen:
            made.learn(address, name, expires)
        changes = made.take()
        if changes.restructured:
            followed = {name: set(elements) for name, elements in made.ruleset.sets.items()}
            macs, addresses = dict(made.ruleset.macs), dict(made.ruleset.addresses)
        else:
            for name, added, removed in changes.sets:
                assert not followed[name] & set(added)
                assert followed[name] >= set(removed)
                followed[name] = followed[name] - set(removed) | set(added)
            for mac, class_ in changes.classes.macs:
                macs[mac] = class_
            for address, class_ in changes.classes.addresses:
                addresses[address] = class_
        assert followed == made.ruleset.sets
        assert {m: c for m, c in macs.items() if c} == made.ruleset.macs
        assert {a: c for a, c in addresses.items() if c} == made.ruleset.addresses


@pytest.mark.parametrize("mode", ["router", "bridge"])
def test_who_exchanges_frames_with_whom(mode: str) -> None:
    """On a bridge that leads to the internet, a device that may reach something there must not be cut off."""
    policy = Policy(PLACEMENT._replace(mode=mode), Known())
    policy.set_home(HOME)
    for mac, texts in DEVICES.items():
        policy.set_device(mac, "", map(parse_address, texts))
        policy.set_party(mac.hex(":"), map(parse_address, texts))
    policy.add(Rule(1, "block", CAMERA))
    policy.add(Rule(2, "allow", CAMERA, domain="www.shop.test"))
    policy.add(Rule(3, "allow", CAMERA, node=PHONE.hex(":")))
    policy.add(Rule(4, "block", PLUG, node=PHONE.hex(":")))
    policy.take()
    ruleset = policy.ruleset
    if mode == "bridge":
        assert (ruleset.isolated, ruleset.apart, ruleset.together) == (set(), set(), set())
    else:
        assert ruleset.isolated == {CAMERA}
        assert ruleset.apart == {(PLUG, PHONE), (PHONE, PLUG)}
        assert ruleset.together == {(CAMERA, PHONE), (PHONE, CAMERA)}
    policy.set_placement(PLACEMENT._replace(mode="bridge"))
    policy.take()
    assert not ruleset.isolated


def test_steps_about_names_go_with_the_last_rule_about_one() -> None:
    address = Rule(1, "block", CAMERA, prefix=prefix("198.18.0.61/32"))
    name = Rule(2, "block", CAMERA, domain="tracker.test")
    made = policy(address)
    before = {class_: list(steps) for class_, steps in made.ruleset.classes.items()}
    made.add(name)
    assert made.take().restructured
    assert made.ruleset.classes != before
    made.discard(2)
    assert made.take().restructured
    assert {class_: list(steps) for class_, steps in made.ruleset.classes.items()} == before
