"""Blocklists as edges read them.

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
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType
from typing import Final

from shopstream.alerting.blocklist import Blocked, Blocklist, LeftOut, network_of

__all__ = ["BlocklistFormat", "render"]

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
