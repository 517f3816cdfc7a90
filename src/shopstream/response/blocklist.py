"""Which actors a shop may block at its edge, for how long, and which it had better not.

Only actors that a rule calls bots, in attacks that nobody has called a false positive or resolved. Nobody of whom more
than a share of events is estimated to be genuine; who is shared and not known well enough is left out, too.

Blocklists as edges read them.

- nginx: a `geo` block (https://nginx.org/en/docs/http/ngx_http_geo_module.html), to be included inside of `http`.
- AWS WAF: requests for `aws wafv2 create-ip-set --cli-input-json`, one for each IP version and 10,000 addresses.
- CrowdSec: JSON for `cscli decisions import` (https://docs.crowdsec.net/docs/cscli/cscli_decisions_import/).
- CSV: everybody, user ids and sessions too; what the shop itself does with them is its own business.

The first three know addresses and networks only.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from types import MappingProxyType
from typing import Final

from shopstream.clock import from_ms, to_ms
from shopstream.detection.detection import Nature
from shopstream.incidents.explanation import genuine_share, title_of
from shopstream.incidents.incident import Actor, Incident, TriageStatus
from shopstream.incidents.ports import IncidentStore

_OWN = tuple(
    map(
        ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.168.0.0/16", "::1/128", "fc00::/7", "fe80::/10"),
        ),
    )
)
"""Networks of one's own: of a machine, a house, a provider's inside."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """An actor to block until a moment; rule and incident of its newest event."""

    actor: Actor
    until: datetime
    rule: str
    incident_id: str
    why: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An actor that is not to be blocked though a rule calls it a bot, and why not."""

    actor: Actor
    incident_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Blocklist:
    """Both, in order of kind and value.

    Args:
        as_of: the moment that expiry is counted at: the engine's event time.
    """

    as_of: datetime
    blocked: tuple[Blocked, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def reasons(self) -> dict[str, int]:
        """Reason → how many were left out for it, the most frequent first."""
        return dict(Counter(one.reason for one in self.left_out).most_common())


def read_blocklist(store: IncidentStore, ttl: timedelta, limit: float, now: datetime | None = None) -> Blocklist:
    """What to block at a moment.

    Args:
        store: the incidents.
        ttl: each is blocked this long after its last event in an incident.
        limit: most estimated share of genuine events, 0 to 1.
        now: in event time; None takes the moment up to which detection has run.
    """
    if now is None:
        now = from_ms(store.as_of_ms() or 0)
    found: dict[Actor, list[Incident]] = {}
    for episode in store.actors(to_ms(now - ttl) + 1):
        if episode.verdict == "bot":
            found.setdefault(episode.actors[0], []).append(episode)
    blocked: list[Blocked] = []
    left_out: list[LeftOut] = []
    for actor, episodes in sorted(found.items()):
        newest = min(episodes, key=lambda one: (-to_ms(one.last_event_time), one.rule))
        incident_id = newest.parent or newest.id
        if reason := _reason(actor, episodes, limit):
            left_out.append(LeftOut(actor, incident_id, reason))
        else:
            blocked.append(Blocked(actor, newest.last_event_time + ttl, newest.rule, incident_id, title_of(newest)))
    return Blocklist(now, tuple(blocked), tuple(left_out))


def network_of(actor: Actor) -> IPv4Network | IPv6Network | None:
    """The address or network as such; None where the actor is neither, or its value is no address."""
    if actor.kind not in {"ip", "ip_net"}:
        return None
    try:
        return ip_network(actor.value, strict=False)
    except ValueError:
        return None


def _reason(actor: Actor, episodes: Sequence[Incident], limit: float) -> str:
    """Why not to block; empty if nothing speaks against it."""
    if any(episode.false_positive for episode in episodes):
        return "somebody called it a false positive"
    if all(TriageStatus.RESOLVED in {episode.status, episode.parent_status} for episode in episodes):
        return "its incident is resolved"
    if all(episode.nature is not Nature.ATTACK for episode in episodes):
        return "what it does is no attack"
    return _wrong_address(actor) or _genuine(episodes, limit)


def _wrong_address(actor: Actor) -> str:
    if actor.kind not in {"ip", "ip_net"}:
        return ""
    network = network_of(actor)
    if network is None:
        return "its value is no address"
    if any(network.version == own.version and network.overlaps(own) for own in _OWN):
        return "no address of the public internet: the tracker may see your own proxy"
    return ""


def _genuine(episodes: Sequence[Incident], limit: float) -> str:
    shares = [share for episode in episodes if (share := genuine_share(episode)) is not None]
    if not shares:
        return "it may be shared, and how much of its traffic is genuine is not known"
    return f"more than {limit:.0%} of its traffic is estimated to be genuine" if max(shares) > limit else ""


_SET: Final = 10_000
"""Addresses in an AWS WAF IP set, at most."""

_Networks = Sequence[tuple[Blocked, IPv4Network | IPv6Network]]


class BlocklistFormat(StrEnum):
    """Who is to read it."""

    NGINX = "nginx"
    AWS_WAF = "aws-waf"
    CROWDSEC = "crowdsec"
    CSV = "csv"


def render(blocklist: Blocklist, fmt: BlocklistFormat) -> tuple[str, tuple[LeftOut, ...]]:
    """The text, and all that it leaves out: what should not be blocked, and what this format cannot express."""
    if fmt is BlocklistFormat.CSV:
        return _csv(blocklist), blocklist.left_out
    networks, unfit = [], []
    for one in blocklist.blocked:
        network = network_of(one.actor)
        if network is None:
            reason = (
                f"{fmt} knows addresses and networks, no {one.actor.kind}; take --format csv and block it in the shop"
            )
            unfit.append(LeftOut(one.actor, one.incident_id, reason))
        else:
            networks.append((one, network))
    return _WRITERS[fmt](blocklist, networks), (*blocklist.left_out, *unfit)


def _nginx(blocklist: Blocklist, networks: _Networks) -> str:
    lines = [
        f"# Bots as of {blocklist.as_of:%Y-%m-%dT%H:%M:%SZ}. nginx forgets nothing by itself: export again and reload.",
        "# In `http`: include this file. In `server`: if ($shopstream_blocked) { return 403; }",
        "geo $shopstream_blocked {",
        "    default 0;",
        *(
            f"    {network} 1;  # until {one.until:%Y-%m-%dT%H:%M:%SZ}, {one.rule}, {one.incident_id}"
            for one, network in networks
        ),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _aws_waf(blocklist: Blocklist, networks: _Networks) -> str:
    requests: list[dict[str, object]] = []
    for version in (4, 6):
        addresses = [str(network) for _, network in networks if network.version == version]
        for part in range(max(1 if version == 4 else 0, math.ceil(len(addresses) / _SET))):  # noqa: PLR2004
            requests.append(  # noqa: PERF401  the nesting is easier to read
                {
                    "Name": f"shopstream-ipv{version}-{part + 1}",
                    "Scope": "REGIONAL",
                    "Description": f"Bots as of {blocklist.as_of:%Y-%m-%dT%H:%M:%SZ}",
                    "IPAddressVersion": f"IPV{version}",
                    "Addresses": addresses[part * _SET : (part + 1) * _SET],
                }
            )
    return json.dumps(requests, indent=2) + "\n"


def _crowdsec(blocklist: Blocklist, networks: _Networks) -> str:
    decisions = [
        {
            "duration": f"{max(math.ceil((one.until - blocklist.as_of) / timedelta(seconds=1)), 1)}s",
            "reason": f"shopstream/{one.rule}",
            "scope": "ip" if network.num_addresses == 1 else "range",
            "type": "ban",
            "value": str(network.network_address if network.num_addresses == 1 else network),
        }
        for one, network in networks
    ]
    return json.dumps(decisions, indent=2) + "\n"


def _csv(blocklist: Blocklist) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("kind", "actor", "until", "rule", "incident", "why"))
    for one in blocklist.blocked:
        writer.writerow((*one.actor, f"{one.until:%Y-%m-%dT%H:%M:%SZ}", one.rule, one.incident_id, one.why))
    return text.getvalue()


_WRITERS: Final[Mapping[BlocklistFormat, Callable[[Blocklist, _Networks], str]]] = MappingProxyType(
    {BlocklistFormat.NGINX: _nginx, BlocklistFormat.AWS_WAF: _aws_waf, BlocklistFormat.CROWDSEC: _crowdsec}
)
