# SPDX-License-Identifier: GPL-2.0-or-later
"""What each kind of device does and when: a list of actions out of a seed. Pure, no I/O, no clock.

The same kind, name, seed and length always give the same list, so a run can be repeated and two
runs compared. Every list is bounded: at most ``MAX_ACTIONS``, each with a bounded size and count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from spind.lab import plan
from spind.lab.errors import LabError

MAX_ACTIONS = 5000


@dataclass(frozen=True)
class Action:
    """One thing that a device does ``at`` seconds after its start.

    ``do`` is one of: ``fetch`` (``count`` HTTP requests for ``size`` bytes on one connection),
    ``upload`` (an HTTP POST of ``size`` bytes), ``datagrams`` (``count`` of ``size`` bytes, an
    echo awaited for each), ``multicast``, ``connect`` (TCP, ``size`` bytes echoed), ``ping``,
    ``scan`` (TCP to each of ``targets`` x ``ports``), ``flood`` (datagrams, none awaited),
    ``names`` (``count`` lookups of random names under ``target``).
    ``rate`` is in attempts, datagrams or lookups a second.
    """

    at: float
    do: str
    target: str
    port: int = 0
    family: int = 4
    size: int = 0
    count: int = 1
    tls: bool = False
    sni: bool = True
    rate: float = 0.0
    ports: tuple[int, ...] = ()
    targets: tuple[str, ...] = ()


def seeded(text: str) -> Random:
    """A source of repeatable choices; nothing here is a secret."""
    return Random(text)  # noqa: S311


_Planner = Callable[[Random, float, Sequence[str]], list[Action]]


def _times(random: Random, seconds: float, low: float, high: float) -> list[float]:
    """Moments within ``seconds`` that are ``low`` to ``high`` apart; the first comes soon."""
    moments = [random.uniform(0, min(low, 0.5))]
    while moments[-1] < seconds and len(moments) < MAX_ACTIONS:
        moments.append(moments[-1] + random.uniform(low, high))
    return moments[:-1]


def _family(random: Random, share6: float = 0.5) -> int:
    return 6 if random.random() < share6 else 4


def _camera(random: Random, seconds: float, _: Sequence[str]) -> list[Action]:
    """Uploads pictures over TLS all the time; asks for the time now and then."""
    host = "cam.vendor.test"
    pictures = [
        Action(at, "upload", host, 443, _family(random), random.randrange(40_000, 400_000), tls=True)
        for at in _times(random, seconds, 1.0, 3.0)
    ]
    return pictures + [
        Action(at, "datagrams", "time.ntp.test", 123, 4, 48) for at in _times(random, seconds, 10, 20)
    ]


def _plug(random: Random, seconds: float, _: Sequence[str]) -> list[Action]:
    """Small datagrams every second or two, and a report over HTTPS every few."""
    beats = [
        Action(at, "datagrams", "api.plug.test", 5683, _family(random, 0.3), random.randrange(24, 90))
        for at in _times(random, seconds, 0.8, 1.6)
    ]
    return beats + [
        Action(at, "upload", "api.plug.test", 443, 4, random.randrange(200, 900), tls=True)
        for at in _times(random, seconds, 5, 9)
    ]


def _tv(random: Random, seconds: float, _: Sequence[str]) -> list[Action]:
    """Streams in segments of some megabytes over one connection at a time, and shows pictures."""
    host, most = "stream.tv.test", 1_500_000
    segments = [
        Action(at, "fetch", host, 443, _family(random, 0.7), random.randrange(300_000, most), 2, tls=True)
        for at in _times(random, seconds, 2.0, 4.0)
    ]
    return segments + [
        Action(at, "fetch", "img.tv.test", 80, _family(random), random.randrange(5_000, 80_000), 3)
        for at in _times(random, seconds, 3, 8)
    ]


_BROWSED = (
    "www.shop.test",
    "www.news.test",
    "static.news.test",
    "a.cdn.test",
    "b.cdn.test",
    "ads.tracker.test",
    "www.example.co.uk",
    "shop.example.co.uk",
    "www.v4only.test",
    "www.v6only.test",
    "plain.http.test",
    "short.ttl.test",
    "blog.wild.test",
    "big.dns.test",
)


def _phone(random: Random, seconds: float, _: Sequence[str]) -> list[Action]:
    """Browses: many names, both families, HTTP and HTTPS, sometimes TLS without SNI, some QUIC-like UDP."""
    actions = []
    for at in _times(random, seconds, 0.2, 1.0):
        host = random.choice(_BROWSED)
        only = {"www.v4only.test": 4, "www.v6only.test": 6, "big.dns.test": 4}
        family = only.get(host) or _family(random)
        tls = host not in {"plain.http.test", "big.dns.test"} and random.random() < 0.8
        size, count = random.randrange(500, 60_000), random.randrange(1, 4)
        sni = random.random() < 0.9
        actions.append(
            Action(at, "fetch", host, 443 if tls else 80, family, size, count, tls=tls, sni=sni)
        )
    return actions + [
        Action(at, "datagrams", "b.cdn.test", 443, _family(random), 1200, random.randrange(2, 6))
        for at in _times(random, seconds, 3, 6)
    ]


def _hub(random: Random, seconds: float, peers: Sequence[str]) -> list[Action]:
    """Talks on the LAN: announcements, connections to the other devices, pings; a little cloud."""
    actions = []
    for number, at in enumerate(_times(random, seconds, 1.5, 3.0)):
        do = random.choice(("mdns", "ssdp", "connect", "connect", "ping"))
        if number < 2:  # who joins a home says so first
            do = ("mdns", "ssdp")[number]
        if do == "connect" and peers:
            host, size = f"{random.choice(peers)}.lan", random.randrange(64, 4000)
            actions.append(Action(at, "connect", host, LAN_PORT, 4, size))
        elif do == "ping":
            family = _family(random)
            gateway = plan.GATEWAY4 if family == 4 else plan.GATEWAY6
            actions.append(Action(at, "ping", gateway, 0, family, 56, 2))
        else:
            group, port = _GROUPS[(do if do in {"mdns", "ssdp"} else "mdns", family := _family(random))]
            actions.append(Action(at, "multicast", group, port, family, random.randrange(40, 300)))
    return actions + [
        Action(at, "fetch", "cloud.hub.test", 443, _family(random), 2000, tls=True)
        for at in _times(random, seconds, 6, 10)
    ]


LAN_PORT = 8009  # every device listens here for the hub
# RFC 6762 section 3; UPnP Device Architecture 2.0 section 1.
_GROUPS = {
    ("mdns", 4): ("224.0.0.251", 5353),
    ("mdns", 6): ("ff02::fb", 5353),
    ("ssdp", 4): ("239.255.255.250", 1900),
    ("ssdp", 6): ("ff02::c", 1900),
}


def _port_scan(random: Random, seconds: float, _: Sequence[str]) -> list[Action]:
    """Tries many ports of one host, in random order."""
    ports = random.sample(range(1, 1025), max(1, min(1000, int(seconds * 100))))
    return [Action(0.1, "scan", plan.server4(21), ports=tuple(ports), targets=(plan.server4(21),), rate=100)]


def _telnet_scan(random: Random, seconds: float, _: Sequence[str]) -> list[Action]:
    """Tries the telnet ports of many hosts, as worms do."""
    count = max(1, min(2000, int(seconds * 50)))
    hosts = tuple(f"198.19.{random.randrange(256)}.{random.randrange(1, 255)}" for _ in range(count))
    return [Action(0.1, "scan", hosts[0], ports=(23, 2323), targets=hosts, rate=100)]


def _flood(_: Random, seconds: float, __: Sequence[str]) -> list[Action]:
    """Sends datagrams to one host as fast as it was told, at most 60,000."""
    count = min(60_000, int(seconds * 3000))
    return [Action(0.1, "flood", plan.server4(22), 9, 4, 1000, count, rate=3000)]


def _names(_: Random, seconds: float, __: Sequence[str]) -> list[Action]:
    """Asks for one random name after the other, as DNS tunnels and name generators do."""
    return [Action(0.1, "names", "wild.test", 53, 4, count=min(20_000, int(seconds * 100)), rate=100)]


KINDS: dict[str, _Planner] = {"camera": _camera, "plug": _plug, "tv": _tv, "phone": _phone, "hub": _hub}
MISBEHAVIOURS: dict[str, _Planner] = {
    "portscan": _port_scan,
    "telnetscan": _telnet_scan,
    "flood": _flood,
    "names": _names,
}


def actions(
    kind: str, name: str, seed: int, seconds: float, peers: Sequence[str], misbehave: str = ""
) -> list[Action]:
    """The actions of the device ``name`` within ``seconds``, in the order of their time.

    ``peers`` are the names of the other devices, for those who talk to them. ``misbehave`` adds
    one of ``MISBEHAVIOURS`` to what the kind does. ``LabError`` where a kind is unknown.
    """
    planner = KINDS.get(kind)
    if planner is None:
        raise LabError(f"not a kind of device: {kind!r}; there are: {', '.join(KINDS)}")
    result = planner(seeded(f"{seed}/{name}/{kind}"), seconds, sorted(peers))
    if misbehave:
        bad = MISBEHAVIOURS.get(misbehave)
        if bad is None:
            raise LabError(f"not a misbehaviour: {misbehave!r}; there are: {', '.join(MISBEHAVIOURS)}")
        result += bad(seeded(f"{seed}/{name}/{misbehave}"), seconds, sorted(peers))
    return sorted(result, key=lambda action: action.at)[:MAX_ACTIONS]
