"""What an incident rests on, in words and figures: the same lines for the command line, the page and reports."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from shopstream.detection.duration import describe_length
from shopstream.incidents.incident import Incident

__all__ = ["evidence_lines", "genuine_share", "number"]

_SHARED = frozenset({"ip", "ip_net", "agent_hash", "user_agent"})
"""Kinds of actor that many people may stand behind."""

_ROUND = 1_000
_BUYING = frozenset({"owasp.oat-001", "owasp.oat-005", "owasp.oat-021"})
"""What robots buy for; with any other label somebody who buys is taken for a shopper."""


def genuine_share(incident: Incident) -> float | None:
    """Estimated share of genuine events in what was hit, 0 to 1; None where nothing is known.

    What the detector says counts first. For the site and its parts it is the expected traffic against the observed. An
    address, network or client may be shared: there the share of buyers' events is compared with everybody else's. One
    shopper or session with the verdict bot is genuine only if it bought, and buying is not what the attack is about.
    """
    said = incident.evidence.get("genuine_share")
    if isinstance(said, int | float):
        return min(max(float(said), 0.0), 1.0)
    kinds = {actor.kind for actor in incident.actors} if incident.keys else set()
    if not kinds:
        expected, observed = incident.evidence.get("expected"), _observed(incident)
        known = isinstance(expected, int | float) and observed
        return min(max(float(str(expected)) / observed, 0.0), 1.0) if known and observed else None
    context = incident.context or {}
    if kinds & _SHARED:
        share = context.get("genuine_share")
        return float(share) if isinstance(share, int | float) else None
    if incident.verdict != "bot":
        return None
    return 1.0 if context.get("buyers") and not _BUYING.intersection(incident.tags) else 0.0


def evidence_lines(incident: Incident) -> dict[str, str]:
    """Name → text, for people, in order of interest; what is not known is left out.

    User ids and addresses are among the values: for the shop's own people, not for logs.
    """
    evidence, context = incident.evidence, incident.context or {}
    lines = {
        "confidence": _confidence(incident),
        "expected": _expected(evidence),
        "score": _score(evidence),
        "excess": _plain(evidence.get("excess_events") or None, "{} events more than expected"),
        "genuine": _genuine(incident),
        "baseline": _baseline(evidence),
        "mixture": _composition(evidence.get("composition"), "normally"),
        "events then": _plain(context.get("events"), "{}") + _people(context),
        "types then": _composition(context.get("composition"), "in the other events"),
        "top actors": _top(context.get("top_actors"), ("kind", "value")),
        "top products": _top(context.get("top_products"), ("product_id", "brand", "category")),
        "examples": ", ".join(map(str, _list(context.get("examples"))[:3])),
    }
    return {name: text for name, text in lines.items() if text}


def number(value: object) -> str:
    """A figure as people read it: thousands apart, no more digits than they mean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if abs(value) < _ROUND else f"{value:,.0f}"


def _observed(incident: Incident) -> float:
    first = next(iter(incident.peak.values()), None)
    return float(first) if isinstance(first, int | float) else 0.0


def _confidence(incident: Incident) -> str:
    parts = ", ".join(f"{rule} {share:.0%}" for rule, share in incident.contributions.items())
    return f"{incident.confidence:.1%} ({parts})"


def _expected(evidence: Mapping[str, object]) -> str:
    if "expected" not in evidence:
        return ""
    low, high = evidence.get("low"), evidence.get("high")
    between = "" if low is None or high is None else f", between {number(low)} and {number(high)}"
    return number(evidence["expected"]) + between


def _score(evidence: Mapping[str, object]) -> str:
    if "score" not in evidence:
        return ""
    shares = evidence.get("contributions")
    parts = (
        ", ".join(f"{name} {number(share)}" for name, share in shares.items()) if isinstance(shares, Mapping) else ""
    )
    return number(evidence["score"]) + (f" ({parts})" if parts else "")


def _genuine(incident: Incident) -> str:
    share = genuine_share(incident)
    return "" if share is None else f"about {share:.0%} of what was hit is genuine traffic"


def _baseline(evidence: Mapping[str, object]) -> str:
    age, error = evidence.get("baseline_age_ms"), evidence.get("forecast_error")
    parts = []
    if isinstance(age, int | float):
        parts.append(f"learned over {describe_length(timedelta(milliseconds=age))}")
    if isinstance(error, int | float):
        parts.append(f"off by {error:.1%} on average")
    return ", ".join(parts)


def _composition(parts: object, against: str) -> str:
    if not isinstance(parts, Mapping):
        return ""
    texts = []
    for name, pair in parts.items():
        if isinstance(pair, Sequence) and len(pair) == 2:  # noqa: PLR2004  observed and expected
            observed, expected = pair
            texts.append(
                f"{name} {_share(observed)}" + ("" if expected is None else f" ({against} {_share(expected)})")
            )
    return ", ".join(texts)


def _share(value: object) -> str:
    return f"{value:.1%}" if isinstance(value, int | float) and 0 <= value <= 1 else number(value)


def _people(context: Mapping[str, object]) -> str:
    return _plain(context.get("users"), ", of {} users") + _plain(context.get("buyers"), ", {} of them bought")


def _top(rows: object, names: tuple[str, ...]) -> str:
    texts = [
        f"{' '.join(str(row[name]) for name in names if row.get(name) is not None)} {_share(row.get('share'))}"
        for row in _list(rows)
        if isinstance(row, Mapping)
    ]
    return ", ".join(texts)


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _plain(value: object, text: str) -> str:
    return "" if value is None else text.format(number(value))
