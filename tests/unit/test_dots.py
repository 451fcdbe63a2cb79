# SPDX-License-Identifier: GPL-2.0-or-later
"""DOTS: mitigation requests, as RFC 9132 4.4.1 and RFC 9066 have them, and what they lead to."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_api import Bench
from test_engine import CAMERA, T0

from spind.api import REFUSED
from spind.commands import Notice
from spind.dots import DotsError, parse_request
from spind.events import Decided


def request(*scopes: object) -> dict[str, Any]:
    return {"ietf-dots-signal-channel:mitigation-scope": {"scope": list(scopes)}}


def bench(**settings: bool) -> Bench:
    made = Bench()
    made.engine.handle(Decided({}, (), dots_enabled=True, **settings), T0)
    made.commands.clear()
    return made


# The request that SPIN 1.0's own script makes.
ATTACK = {
    "lifetime": 3600,
    "ietf-dots-call-home:source-prefix": ["192.0.2.1/32"],
    "target-prefix": ["198.18.0.20/32"],
}


def test_devices_are_kept_from_what_they_attack_for_its_lifetime() -> None:
    made = bench()
    assert made("dots_signal", dots_signal=request(ATTACK)) is None
    (rule,) = made("list_rules")
    assert (rule["device"], rule["ip"], rule["action"]) == ("02:00:00:00:08:11", "198.18.0.20", "block")
    assert rule["author"] == "detector"
    assert rule["until"] == int(T0 + 5) + 3600
    assert made.engine.policy.decide(CAMERA, "", bytes([198, 18, 0, 20]), 6, 443) is not None
    made("dots_signal", dots_signal=request(ATTACK))
    assert len(made("list_rules")) == 1


def test_lifetime_of_minus_one_is_for_good() -> None:
    made = bench()
    made("dots_signal", dots_signal=request(ATTACK | {"lifetime": -1}))
    assert "until" not in made("list_rules")[0]


@pytest.mark.parametrize(
    ("more", "matches"),
    [
        ({"target-prefix": ["203.0.113.0/24"]}, 0),
        ({"target-port-range": [{"lower-port": 443}]}, 1),
        ({"target-port-range": [{"lower-port": 80}]}, 0),
        ({"target-port-range": [{"lower-port": 80}, {"lower-port": 400, "upper-port": 500}]}, 1),
        ({"target-protocol": [6]}, 1),
        ({"target-protocol": [17]}, 0),
        ({"ietf-dots-call-home:source-icmp-type-range": [{"lower-type": 8}]}, 1),
        ({"ietf-dots-call-home:source-icmp-type-range": [{"lower-type": 0}]}, 0),
    ],
)
def test_only_matching_traffic_counts(more: dict[str, Any], matches: int) -> None:
    made = bench()
    made("dots_signal", dots_signal=request(ATTACK | more))
    assert len(made("list_rules")) == matches


def test_log_only_changes_nothing_and_tells() -> None:
    made = bench(dots_log_only=True)
    made("dots_signal", dots_signal=request(ATTACK))
    assert made("list_rules") == []
    (notice,) = [command for command in made.commands if isinstance(command, Notice)]
    assert "02:00:00:00:08:11" in notice.message


def test_off_unless_enabled() -> None:
    error = Bench().refused("dots_signal", dots_signal=request(ATTACK))
    assert error.code == REFUSED
    assert "dots_enabled" in error.message


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"ietf-dots-signal-channel:mitigation-scope": []},
        request(),
        request("x"),
        request({}),
        request({"target-prefix": []}),
        request({"target-prefix": ["x"]}),
        request({"target-prefix": ["0.0.0.0/0"]}),
        request({"target-prefix": [4]}),
        request(ATTACK | {"lifetime": 0}),
        request(ATTACK | {"lifetime": True}),
        request(ATTACK | {"target-protocol": [256]}),
        request(ATTACK | {"target-port-range": [{"lower-port": 5, "upper-port": 4}]}),
        request(ATTACK | {"target-port-range": [{"upper-port": 4}]}),
        request(ATTACK | {"target-fqdn": ["a.test"]}),
        request(*[ATTACK] * 17),
        request(ATTACK | {"target-prefix": ["198.18.0.20"] * 65}),
    ],
)
def test_what_cannot_be_followed_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(DotsError):
        parse_request(bad)
    assert bench().refused("dots_signal", dots_signal=bad).code == REFUSED


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["target-prefix", "lifetime", "target-port-range", "lower-port", "scope"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(json_values)
def test_anything_is_a_request_or_an_error(value: object) -> None:
    for message in ({"ietf-dots-signal-channel:mitigation-scope": value}, request(value)):
        try:
            assert parse_request(message)
        except DotsError:
            pass
