"""Explains an incident in plain words: its title, who it is about, and what it rests on.

The command line, the dashboard, notifications and exports all show these texts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from shopstream.detection.wording import ACTORS, describe_key, describe_length, fill_title, number, plural, subject
from shopstream.incidents.incident import Incident

_SHARED = frozenset({"ip", "ip_net", "agent_hash", "user_agent"})
"""Actor kinds that many people may share."""

_BUYING = frozenset({"owasp.oat-001", "owasp.oat-005", "owasp.oat-021"})
"""Attacks that buy or fill carts. Under any other label, an actor who buys counts as a shopper."""

_SHARE_NAMES = {
    "tail": "rarely viewed products",
    "new_users": "first events of users",
    "users": "users per event",
    "buys": "carts and purchases",
    "buyers": "users who buy",
}
"""Name of a share or sign → what people call it."""


def title_of(incident: Incident) -> str:
    """What happened, with figures: `Two users read 60 pages a minute`.

    The rule's title may name measures of the strongest window and key columns in braces, and `{who}`, the subject.
    User ids and addresses never appear.
    """
    kind = next((name for name in incident.key_kind.split("+") if name in ACTORS), None)
    actors = max(1, sum(actor.kind == kind for actor in incident.actors)) if incident.campaign else 1
    who = subject(incident.key_kind, incident.keys, actors)
    title = fill_title(incident.title, incident.keys, incident.peak, who)
    return f"{title}: {who[0].lower()}{who[1:]}" if incident.campaign and "{who}" not in incident.title else title


def who_of(incident: Incident, *, keys: bool = True) -> str:
    """The actors, or the part of the shop.

    Args:
        incident: it.
        keys: whether to name the actor; user ids and addresses are personal data.
    """
    if incident.campaign:
        kinds = Counter(actor.kind for actor in incident.actors)
        return "campaign of " + ", ".join(f"{count:,} {plural(kind, count)}" for kind, count in kinds.items())
    if not keys and incident.keys:
        return f"one {' and '.join(ACTORS.get(name, name) for name in incident.keys)}"
    return describe_key(incident.keys)


def figures_of(incident: Incident) -> str:
    """Measures of the strongest window, and its length: `60 events, 40 products in 1 min`."""
    figures = ", ".join(_figure(name, value) for name, value in incident.peak.items())
    return f"{figures} in {describe_length(incident.peak_end - incident.peak_start)}"


def verdict_of(episode: Incident) -> dict[str, object]:
    """What an episode says of its actor, as a row of `queries.VERDICT_SCHEMA`.

    The rule's verdict holds until a person calls the incident, or the actor's part in it, a false positive: then the
    actor is human in that time.
    """
    (actor,) = episode.actors
    return {
        "actor_kind": actor.kind,
        "actor": actor.value,
        "verdict": "human" if episode.false_positive else episode.verdict,
        "from_time": episode.first_event_time,
        "until_time": episode.last_event_time + timedelta(milliseconds=1),
        "why": title_of(episode),
        "rule": episode.rule,
        "incident_id": episode.parent or episode.id,
    }


def genuine_share(incident: Incident) -> float | None:
    """Estimated share of genuine events in the affected traffic, 0 to 1; None if unknown.

    The detector's own estimate comes first. For the site and its parts, the share is expected over observed traffic. An
    address, network or client may be shared, so its buyers' share of events is compared with that of all other traffic.
    One shopper or session with the verdict bot is genuine only if it bought, and if the attack is not about buying.
    """
    estimate = incident.evidence.get("genuine_share")
    if isinstance(estimate, int | float):
        return min(max(float(estimate), 0.0), 1.0)
    kinds = {actor.kind for actor in incident.actors} if incident.keys else set()
    if not kinds:
        expected, observed = incident.evidence.get("expected"), next(iter(incident.peak.values()), None)
        if isinstance(expected, int | float) and isinstance(observed, int | float) and observed:
            return min(max(expected / observed, 0.0), 1.0)
        return None
    context = incident.context or {}
    if kinds & _SHARED:
        share = context.get("genuine_share")
        return float(share) if isinstance(share, int | float) else None
    if incident.verdict != "bot":
        return None
    return 1.0 if context.get("buyers") and not _BUYING.intersection(incident.tags) else 0.0


def lines_of(incident: Incident) -> dict[str, str]:
    """Label → sentence, the most useful first and statistics last; what is unknown is left out.

    Values include user ids and addresses: show them to the shop's staff, but do not log them.
    """
    evidence, context = incident.evidence, incident.context or {}
    genuine = genuine_share(incident)
    lines = {
        "difference": _difference(evidence.get("excess_events")),
        "genuine traffic": "" if genuine is None else f"{_portion(genuine)} of the affected traffic is genuine.",
        "composition": _composition(evidence.get("composition"), "normally"),
        "events": _events(context),
        "event types": _composition(context.get("composition"), "elsewhere"),
        "top actors": _top(context.get("top_actors"), ("kind", "value")),
        "top products": _top(context.get("top_products"), ("product_id", "brand", "category")),
        "examples": ", ".join(map(str, _list(context.get("examples"))[:3])),
        "expected": _expected(evidence),
        "confidence": _confidence(incident),
        "score": _score(evidence),
        "baseline": _baseline(evidence),
    }
    return {label: text for label, text in lines.items() if text}


def describe_time(moment: datetime) -> str:
    """A time for people: `2019-11-01 10:00:00 UTC`."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _figure(name: str, value: object) -> str:
    words = name.replace("_", " ")
    if isinstance(value, int | float) and name.endswith("_seconds"):
        return f"{words.removesuffix(' seconds')} {describe_length(timedelta(seconds=value))}"
    if isinstance(value, int | float) and name == "factor":
        return f"{value:.1f}x"
    return f"{words} {_share(value)}" if name.endswith("share") else f"{number(value)} {words}"


def _difference(excess: object) -> str:
    if not isinstance(excess, int | float) or not round(excess):
        return ""
    return f"{number(round(abs(excess)))} events {'more' if excess > 0 else 'fewer'} than expected."


def _events(context: Mapping[str, object]) -> str:
    if context.get("events") is None:
        return ""
    counts = (
        f"{number(context[name])} {text}"
        for name, text in (("users", "users"), ("buyers", "of them bought"))
        if context.get(name) is not None
    )
    return " from ".join([f"{number(context['events'])} events", ", ".join(counts)]).removesuffix(" from ") + "."


def _expected(evidence: Mapping[str, object]) -> str:
    if "expected" not in evidence:
        return ""
    low, high = evidence.get("low"), evidence.get("high")
    between = "" if low is None or high is None else f", between {number(low)} and {number(high)}"
    return number(evidence["expected"]) + between


def _confidence(incident: Incident) -> str:
    return f"{incident.confidence:.1%}" + _parts(
        f"{rule} {share:.0%}" for rule, share in incident.contributions.items()
    )


def _score(evidence: Mapping[str, object]) -> str:
    if "score" not in evidence:
        return ""
    shares = evidence.get("contributions")
    named = shares.items() if isinstance(shares, Mapping) else ()
    return f"{number(evidence['score'])} standard deviations" + _parts(
        f"{_share_name(name)} {_share(part)}" for name, part in named
    )


def _parts(texts: Iterable[str]) -> str:
    joined = ", ".join(texts)
    return f" ({joined})" if joined else ""


def _baseline(evidence: Mapping[str, object]) -> str:
    history, age, error = (evidence.get(name) for name in ("baseline_ms", "baseline_age_ms", "forecast_error"))
    parts = []
    if isinstance(age, int | float):
        learned = (
            f"was learned from {describe_length(timedelta(milliseconds=history))} of events and "
            if isinstance(history, int | float)
            else ""
        )
        parts.append(f"The baseline {learned}is {describe_length(timedelta(milliseconds=age))} old.")
    if isinstance(error, int | float):
        parts.append(f"Its average forecast error is {error:.1%}.")
    return " ".join(parts)


def _composition(parts: object, against: str) -> str:
    if not isinstance(parts, Mapping):
        return ""
    texts = []
    for name, pair in parts.items():
        if isinstance(pair, Sequence) and len(pair) == 2:  # noqa: PLR2004  observed and expected
            observed, expected = pair
            usual = "" if expected is None else f" ({against} {_share(expected)})"
            texts.append(f"{_share_name(name)} {_share(observed)}{usual}")
    return ", ".join(texts)


def _share_name(name: str) -> str:
    return _SHARE_NAMES.get(name, name.replace("_", " "))


def _portion(share: float) -> str:
    return "Hardly any" if round(share, 2) == 0 else f"About {share:.0%}"


def _share(value: object) -> str:
    return f"{value:.1%}" if isinstance(value, int | float) and abs(value) <= 1 else number(value)


def _top(rows: object, names: tuple[str, ...]) -> str:
    texts = [
        f"{' '.join(str(row[name]) for name in names if row.get(name) is not None)} {_share(row.get('share'))}"
        for row in _list(rows)
        if isinstance(row, Mapping)
    ]
    return ", ".join(texts)


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()
