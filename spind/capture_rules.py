# SPDX-License-Identifier: GPL-2.0-or-later
"""Which packets the kernel hands to us: one list of rules, written for nftables and for iptables.

Owns the choice of packets, and its text. Pure: ``capture_nftables`` and ``capture_iptables`` put the
rules into the kernel, ``capture_backend`` chooses between the two.

What is queued, on the home's interfaces only:

1. DNS, both directions, forwarded and to or from this machine. UDP always; of TCP what carries
   payload, in a connection's first :data:`TCP_DNS_PACKETS` packets.
2. A connection's first packets while conntrack calls it new: forwarded, whoever opened it, and from
   the home to this machine. New ends with the first reply, which for a stream of UDP that nobody
   answers is never: so :data:`NEW_PACKETS` bounds it.
3. What a client sends first over TCP (ClientHello, HTTP request), until the connection's mark says
   *done*, at most its first :data:`CLIENT_PACKETS` packets.
4. With an ``inspect_mark``: before all that, packets that carry it, forwarded and in mode ``local``
   sent by this machine. The blocking rules, which come before, set that bit on what must not pass
   before Python has seen which name it is for.

All of it can only hand packets to us or leave them alone. There is no accept that ends the judgement
of anybody's rules: in nftables a base chain's accept goes on to the next base chain; our iptables
rules stand last in their built-in chain, where to accept is what the chain would do anyway, and so is
``bypass`` and a queue that is full and fails open.

*Done* travels like this. The verdict sets the bit in the packet's mark and says repeat: the packet
enters the same hook again. There the first rule takes the bit from the packet, sets it in the
connection's mark, and accepts. So nobody else ever sees the bit on a packet. All other bits of both
marks stay as they are. *Cut* travels in the same way, up to the blocking rules that come later and
reset the connection. In LOCAL_OUT the kernel routes a packet with a changed mark again. There, in
mode ``local``, only inspection uses the bits, since it must; for the rest
:data:`LOCAL_CLIENT_PACKETS` bounds the work.

*Inspect* is taken from the packet by its verdict. It stays on packets that no verdict is given for,
because nobody has the queue: ``bypass`` continues, it cannot change. The bit means nothing to anybody
else, and it is not kept with the connection.

*Alive*: rules queue only while a dead man's switch is held, which a stopped daemon lets go after a
second (``capture_alive``), so that not even a queue's length of packets is held up for long. Inspection
does not depend on it: what is to be inspected waits as long as a stopped daemon has the queue, and
passes only when nobody has it.
"""

from typing import NamedTuple

from spind.ruleset import Marks, check_interfaces

NEW_PACKETS = 3
"""Packets of an unanswered connection: the first, and two more should that one be lost."""

CLIENT_PACKETS = 64
"""Packets of a client among which its first request is looked for. SYN and ACK, then a ClientHello
that has grown to 2 KB by post-quantum keys, in segments as small as 40 bytes. *Done* ends it earlier
for nearly all connections, mostly after one packet."""

LOCAL_CLIENT_PACKETS = 20
"""The same where there is no *done*: a ClientHello in two dozen segments is not found."""

TCP_DNS_PACKETS = 1_000
"""Packets, both directions together, of a TCP connection to port 53: resolvers that keep one open
send a few queries over it; a zone transfer or a tunnel is more."""

HEADERS_MAX = 120
"""IPv4 and TCP headers with all options have 120 bytes: what is longer carries payload. Shorter
packets count as payload if they have PSH, which stacks set on the last segment of each write."""

ALIVE_SECONDS = 1
"""How long the dead man's switch holds: TCP sends a SYN again after this time, which then passes."""


class CaptureSpec(NamedTuple):
    """What the rules depend on.

    ``interfaces`` are the home's; none of them in mode ``local`` means all but loopback. In mode
    ``bridge`` they are bridges, since the rules see packets there, not at a bridge's ports.
    ``done_mark``, ``cut_mark`` and ``inspect_mark`` are one bit each, 0 where that is not wanted.
    ``watched`` makes the rules depend on the dead man's switch. ``queue_inspect`` counts where
    there is an ``inspect_mark``, and is nobody else's: the other queues let pass what finds no room.
    """

    mode: str
    interfaces: tuple[str, ...]
    queue_dns: int
    queue_first: int
    done_mark: int
    watched: bool = True
    queue_inspect: int = 0
    cut_mark: int = 0
    inspect_mark: int = 0

    @property
    def marks(self) -> Marks:
        """The bits."""
        return Marks(self.done_mark, self.cut_mark, self.inspect_mark)


class Rule(NamedTuple):
    """One rule: all conditions must hold. An empty one says nothing.

    ``chain`` and the target of ``jump`` are names of our chains, without prefix. ``packets`` is
    (``original`` or ``both``, the last packet of the connection that matches, counted from 1).
    ``payload`` is ``push`` or ``long``. ``done`` looks at the connection's mark, ``marked`` at the
    packet's: it is the bit's name in :class:`~spind.ruleset.Marks`. ``action`` is ``jump``, ``queue``,
    ``remember`` (take the bit ``marked`` from the packet, where none of ours stays, to the connection,
    and accept), ``return``, ``pass`` (return, and be counted).
    """

    chain: str
    action: str
    target: str = ""
    queue: int = 0
    incoming: str = ""
    outgoing: str = ""
    protocol: str = ""
    source_port: int = 0
    destination_port: int = 0
    payload: str = ""
    new: bool = False
    original: bool = False
    packets: tuple[str, int] | None = None
    done: bool = False
    marked: str = ""
    alive: bool = False


HOOKS = ("forward", "input", "output")
"""Chains that packets enter by a hook; the others are jumped to."""

NOT_LOOPBACK = "! lo"
"""Stands for an interface's name."""


def one_bit(mask: int) -> int:
    """Return the lowest bit of ``ctmark_mask``, for ``done_mark``; 0 of 0."""
    return mask & -mask


def bits(mask: int) -> Marks:
    """Return the three lowest bits of ``ctmark_mask``; ``ValueError`` where it has fewer."""
    found: list[int] = []
    while mask and len(found) < 3:
        found.append(one_bit(mask))
        mask ^= found[-1]
    if len(found) < 3:
        raise ValueError(f"the mask for marks needs three bits, and has {len(found)}")
    return Marks(*found)


def capture_rules(spec: CaptureSpec) -> list[Rule]:
    """Rules in order. ``ValueError`` for an interface name that no interface can have."""
    check_interfaces(spec.interfaces)
    if spec.inspect_mark and spec.queue_inspect in (spec.queue_dns, spec.queue_first):
        raise ValueError(f"queue {spec.queue_inspect} cannot serve inspection and something else")
    interfaces = spec.interfaces or ((NOT_LOOPBACK,) if spec.mode == "local" else ())
    rules: list[Rule] = []
    if spec.mode != "local":
        rules += _marked("forward", spec)
        for name in interfaces:
            rules.append(Rule("forward", "jump", "through", incoming=name))
            rules.append(Rule("forward", "jump", "through", outgoing=name))
        rules.append(Rule("through", "return", done=True))
        rules += [*_dns("through"), _new("through"), *_client("through", CLIENT_PACKETS)]
    elif spec.inspect_mark:
        rules += _marked("output", spec)
    for name in interfaces:
        rules.append(Rule("input", "jump", "arriving", incoming=name))
        rules.append(Rule("output", "jump", "leaving", outgoing=name))
    rules += [*_dns("arriving"), _new("arriving"), *_dns("leaving")]
    if spec.mode == "local":
        rules += [_new("leaving"), *_client("leaving", LOCAL_CLIENT_PACKETS)]
    if spec.inspect_mark:
        rules.append(Rule("inspect", "queue", queue=spec.queue_inspect))
    for chain, queue in (("dns", spec.queue_dns), ("first", spec.queue_first)):
        rules.append(Rule(chain, "queue", queue=queue, alive=spec.watched))
        if spec.watched:
            rules.append(Rule(chain, "pass"))  # what gets here while the switch is let go, counted
    return rules


def _marked(chain: str, spec: CaptureSpec) -> list[Rule]:
    rules = [Rule(chain, "remember", marked="done")]
    if spec.cut_mark:
        rules.insert(0, Rule(chain, "remember", marked="cut"))
    if spec.inspect_mark:
        rules.append(Rule(chain, "jump", "inspect", marked="inspect"))
    return rules


def _dns(chain: str) -> list[Rule]:
    rules = [
        Rule(chain, "jump", "dns", protocol="udp", destination_port=53),
        Rule(chain, "jump", "dns", protocol="udp", source_port=53),
    ]
    for payload in ("push", "long"):
        tcp = Rule(chain, "jump", "dns", protocol="tcp", payload=payload, packets=("both", TCP_DNS_PACKETS))
        rules.append(tcp._replace(destination_port=53))
        rules.append(tcp._replace(source_port=53))
    return rules


def _new(chain: str) -> Rule:
    return Rule(chain, "jump", "first", new=True, packets=("original", NEW_PACKETS))


def _client(chain: str, packets: int) -> list[Rule]:
    first = Rule(chain, "jump", "first", protocol="tcp", original=True, packets=("original", packets))
    return [first._replace(payload=payload) for payload in ("push", "long")]
