# SPDX-License-Identifier: GPL-2.0-or-later
"""Which name an address had, for whom, and how we know: the DNS answers that were seen.

Owns the queries that wait for their answer and the answers given. Accepts only answers to a
query that was seen, on the same addresses and ports, with the same id and question (RFC 5452
3 and 9.1). Must not know about nodes or traffic: devices are just ids here.
"""

from collections import OrderedDict
from typing import NamedTuple

from spind.addresses import is_public
from spind.limits import Limits
from spind.model import Address, ConnKey, Evidence
from spind.wire.dns import DnsMessage, Record

QUERY_LIFETIME = 10.0
"""Seconds that a query waits for its answer; resolvers give up sooner (RFC 1035 4.2.1)."""

TTL_GRACE = 2.0
"""Seconds beyond a TTL in which a name still counts: the time from the answer's arrival to the
connection it was asked for, which matters for the TTLs of 0 and 1 that CDNs use."""

KEEP_SECONDS = 3600.0
"""Seconds for which an answer is kept beyond its time, for rules that are made later: it says nothing
about new connections any more, but devices still use its addresses."""

TTL_MAX = 86400.0
"""Seconds after which an answer is forgotten whatever its TTL says."""

NAMES_PER_DEVICE = 8
"""Names remembered for one device and address; the oldest goes."""

ADDRESSES_PER_ANSWER = 256
"""Addresses remembered of one answer: more do not fit into the messages that are read. Clients may choose
any of them, and a rule that is made later must know them all."""

CNAME_LIMIT = 16
"""Links followed in one answer's CNAME chain (resolvers stop at 8 to 16)."""

TYPE_A = 1
TYPE_CNAME = 5
TYPE_AAAA = 28
TYPE_SVCB = 64
TYPE_HTTPS = 65


class Answer(NamedTuple):
    """An accepted answer: who asked, for what, and the addresses that it got, with their end."""

    device: int
    name: str
    addresses: list[tuple[Address, float]]


def answered_addresses(name: str, records: tuple[Record, ...]) -> list[tuple[Address, int]]:
    """Addresses that ``records`` give to ``name`` through its CNAME chain, with the chain's lowest
    TTL in seconds. Records that the chain does not lead to are not believed. The hints of SVCB and HTTPS
    records (RFC 9460 7.3) count: clients connect to them without asking for more."""
    links = {r.name: (r.target, r.ttl) for r in records if r.rtype == TYPE_CNAME and r.target}
    ttl = 2**31 - 1
    owner = name
    owners = {owner: ttl}
    for _ in range(CNAME_LIMIT):
        link = links.get(owner)
        if link is None or link[0] in owners:
            break
        owner = str(link[0])
        ttl = min(ttl, link[1])
        owners[owner] = ttl
    return [
        (record.address, min(owners[record.name], record.ttl))
        for record in records
        if record.address is not None
        and record.name in owners
        and record.rtype in (TYPE_A, TYPE_AAAA, TYPE_SVCB, TYPE_HTTPS)
        and is_public(record.address)
    ]


class Names:
    """DNS as the home's devices saw it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # (connection of the query, id, name, type) -> (device, time)
        self._queries: OrderedDict[tuple[ConnKey, int, str, int], tuple[int, float]] = OrderedDict()
        # address -> device -> name -> expiry, the latest name last
        self._answers: OrderedDict[Address, dict[int, dict[str, float]]] = OrderedDict()
        # device -> its addresses, the latest last: whoever has most of the table makes room
        self._of: dict[int, OrderedDict[Address, None]] = {}
        self.size = 0
        self.evicted = 0
        self.queries_seen = 0
        self.answers_seen = 0
        self.answers_unasked = 0

    def query(self, key: ConnKey, device: int, message: DnsMessage, now: float) -> str | None:
        """Note a query; the name it asks for, or ``None`` where it repeats a waiting one or does not
        ask exactly one question."""
        if len(message.questions) != 1 or message.opcode != 0:
            return None
        question = message.questions[0]
        slot = (key, message.id, question.name, question.qtype)
        known = self._queries.pop(slot, None)
        self._queries[slot] = (device, now)
        if len(self._queries) > self._limits.queries:
            self._queries.popitem(last=False)
        if known is not None and now - known[1] < QUERY_LIFETIME:
            return None
        self.queries_seen += 1
        return question.name

    def answer(self, key: ConnKey, message: DnsMessage, now: float) -> Answer | None:
        """Note an answer travelling along ``key``; ``None`` unless it was asked for."""
        if len(message.questions) != 1:
            return None
        question = message.questions[0]
        asked = ConnKey(key.proto, key.dst, key.dport, key.src, key.sport)
        known = self._queries.pop((asked, message.id, question.name, question.qtype), None)
        if known is None or now - known[1] > QUERY_LIFETIME:
            self.answers_unasked += 1
            return None
        self.answers_seen += 1
        device = known[0]
        addresses: list[tuple[Address, float]] = []
        for address, ttl in answered_addresses(question.name, message.answers):
            expires = now + min(ttl, TTL_MAX) + TTL_GRACE
            if len(addresses) < ADDRESSES_PER_ANSWER:
                self._note(address, device, question.name, expires)
            addresses.append((address, expires))
        return Answer(device, question.name, addresses)

    def at(self, address: Address) -> list[tuple[str, float]]:
        """The names that the address was given for, to whomever, and when each answer ends."""
        by_device = self._answers.get(address, {})
        return [pair for names in by_device.values() for pair in names.items()]

    def everything(self) -> list[tuple[Address, str, float]]:
        """All answers: address, name, and when it ends."""
        return [
            (address, name, expires)
            for address, by_device in self._answers.items()
            for names in by_device.values()
            for name, expires in names.items()
        ]

    def shift(self, delta: float) -> None:
        """The clock was set by ``delta`` seconds."""
        for slot, (device, asked) in self._queries.items():
            self._queries[slot] = device, asked + delta
        for by_device in self._answers.values():
            for names in by_device.values():
                for name in names:
                    names[name] += delta

    def lookup(self, device: int, address: Address, now: float) -> tuple[str, Evidence]:
        """The name by which ``device`` most likely knows ``address``, and the evidence for it."""
        by_device = self._answers.get(address)
        if by_device is None:
            return "", Evidence.NONE
        own = by_device.get(device)
        if own is not None:
            for name in reversed(own):
                if own[name] >= now:
                    return name, Evidence.DNS
        best = ""
        # The device that was answered last: a TTL is the author's to choose.
        for names in reversed(by_device.values()):
            best = next((name for name in reversed(names) if names[name] >= now), "")
            if best:
                break
        return (best, Evidence.DNS_OTHER) if best else ("", Evidence.NONE)

    def expire(self, now: float, *, most: int = 500) -> None:
        """Forget answers whose time is over, looking at up to ``most`` addresses a call."""
        for address in list(self._answers)[:most] if len(self._answers) <= most else self._oldest(most):
            by_device = self._answers[address]
            for device in list(by_device):
                names = by_device[device]
                for name in [name for name, expires in names.items() if expires + KEEP_SECONDS < now]:
                    del names[name]
                    self.size -= 1
                if not names:
                    del by_device[device]
                    self._disown(device, address)
            if not by_device:
                del self._answers[address]
        while self._queries:
            slot, (_, asked) = next(iter(self._queries.items()))
            if now - asked <= QUERY_LIFETIME:
                break
            del self._queries[slot]

    def _disown(self, device: int, address: Address) -> None:
        own = self._of[device]
        del own[address]
        if not own:
            del self._of[device]

    def _oldest(self, most: int) -> list[Address]:
        """The ``most`` addresses answered longest ago; they are looked at again only after the others."""
        addresses = [address for address, _ in zip(self._answers, range(most), strict=False)]
        for address in addresses:
            self._answers.move_to_end(address)
        return addresses

    def _note(self, address: Address, device: int, name: str, expires: float) -> None:
        by_device = self._answers.setdefault(address, {})
        self._answers.move_to_end(address)
        names = by_device.pop(device, {})
        by_device[device] = names  # the latest last
        own = self._of.setdefault(device, OrderedDict())
        own[address] = None
        own.move_to_end(address)
        if names.pop(name, None) is None:
            self.size += 1
        names[name] = expires
        if len(names) > NAMES_PER_DEVICE:
            del names[next(iter(names))]
            self.size -= 1
        while self.size > self._limits.names and len(self._answers) > 1:
            owner = max(self._of, key=lambda one: len(self._of[one]))
            oldest = next(iter(self._of[owner]))
            by_owner = self._answers[oldest]
            self.size -= len(by_owner.pop(owner))
            self._disown(owner, oldest)
            if not by_owner:
                del self._answers[oldest]
            self.evicted += 1
