"""From signals to detections: what a rule's window met becomes a verdict with the rule's words on it.

Rules without their SQL: what judging signals needs of them, checked once and carried as data.

Where windows are computed elsewhere, a rule is only what its detections repeat of it. A pack is made where rules can be
checked (a SQL parser and DuckDB are there) and read where they cannot.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Final, Literal, Protocol

from shopstream.detection.detection import Detection, Severity
from shopstream.engine.signals import Signal
from shopstream.errors import RuleError

__all__ = ["BundledRule", "RuleInfo", "detect", "detection_id", "read_rule_bundle", "write_rule_bundle"]


class RuleInfo(Protocol):
    """What a detection repeats of its rule; see `rule.Rule`, and `pack.BundledRule` where there is no SQL parser."""

    @property
    def id(self) -> str:
        """The rule's id, and its window's name."""
        ...

    @property
    def version(self) -> str:
        """Digest of the rule file."""
        ...

    @property
    def title(self) -> str:
        """What was found, in one line."""
        ...

    @property
    def level(self) -> Severity:
        """How bad it is."""
        ...

    @property
    def tags(self) -> tuple[str, ...]:
        """Labels."""
        ...

    @property
    def key_kind(self) -> str:
        """`site`, or the key columns joined by `+`."""
        ...

    @property
    def condition(self) -> str:
        """What a window has to meet."""
        ...

    @property
    def suppress_for(self) -> int:
        """Quiet time that ends an incident, ms."""
        ...

    @property
    def verdict(self) -> Literal["bot", "human", "unknown"] | None:
        """What a hit says of the actor."""
        ...

    @property
    def enabled(self) -> bool:
        """Whether it runs."""
        ...


def detection_id(rule_id: str, key: Mapping[str, str], start_ms: int) -> str:
    """32 hex characters of SHA-256 over rule, key and window start: a replay finds the same."""
    text = json.dumps([rule_id, sorted(key.items()), start_ms], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def detect(signals: Iterable[Signal], rules: Mapping[str, RuleInfo]) -> list[Detection]:
    """One detection for each signal of a rule's window, in the order given.

    Signals of windows that are no rule's (live journeys have some) are not detections and are left out, and so are
    those of rules that are switched off.
    """
    return [
        _detection(signal, rule)
        for signal in signals
        if (rule := rules.get(signal.window)) is not None and rule.enabled
    ]


def _detection(signal: Signal, rule: RuleInfo) -> Detection:
    key = {column: str(value) for column, value in signal.key.items()}
    return Detection(
        detection_id=detection_id(rule.id, key, signal.start_ms),
        rule_id=rule.id,
        rule_version=rule.version,
        title=rule.title,
        severity=rule.level,
        tags=rule.tags,
        key_kind=rule.key_kind,
        key=key,
        start_ms=signal.start_ms,
        end_ms=signal.end_ms,
        first_event_ms=signal.first_event_ms,
        last_event_ms=signal.last_event_ms,
        measures={name: _json_ready(value) for name, value in signal.measures.items()},
        threshold=rule.condition,
        final=signal.final,
        suppress_for_ms=rule.suppress_for,
        verdict=rule.verdict,
    )


def _json_ready(value: object) -> object:
    """Money becomes text, so that no digit is lost; times and the like in their own notation."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value) if isinstance(value, Decimal) else getattr(value, "isoformat", value.__str__)()


_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class BundledRule:
    """See `judge.RuleInfo`; all in a pack are switched on."""

    id: str
    version: str
    title: str
    level: Severity
    tags: tuple[str, ...]
    key_kind: str
    condition: str
    suppress_for: int
    verdict: Literal["bot", "human", "unknown"] | None
    enabled: bool = True


def write_rule_bundle(rules: Mapping[str, RuleInfo]) -> bytes:
    """JSON text of the rules that are switched on, with a digest; the same rules give the same bytes."""
    packed = [
        asdict(
            BundledRule(
                id=rule.id,
                version=rule.version,
                title=rule.title,
                level=rule.level,
                tags=rule.tags,
                key_kind=rule.key_kind,
                condition=rule.condition,
                suppress_for=rule.suppress_for,
                verdict=rule.verdict,
            )
        )
        for _, rule in sorted(rules.items())
        if rule.enabled
    ]
    return json.dumps({"format": _FORMAT, "digest": _digest(packed), "rules": packed}, indent=1).encode()


def read_rule_bundle(content: bytes, name: str) -> dict[str, BundledRule]:
    """Rule id → rule.

    Args:
        content: what `write_rule_bundle` gave.
        name: of the file, for messages.

    Raises:
        RuleError: it is damaged, was changed by hand, or is of another version.
    """
    try:
        document = json.loads(content)
        if document["format"] != _FORMAT or document["digest"] != _digest(document["rules"]):
            raise RuleError(
                f"{name} was changed after it was packed, or by another version; package the function again"
            )
        rules = [
            BundledRule(**{**rule, "level": Severity(rule["level"]), "tags": tuple(rule["tags"])})
            for rule in document["rules"]
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RuleError(f"{name} is damaged ({type(error).__name__}); package the function again") from error
    return {rule.id: rule for rule in rules}


def _digest(rules: object) -> str:
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
