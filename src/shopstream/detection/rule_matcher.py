"""Matches signals with rules: each signal of a rule's window becomes a detection.

Where there is no SQL parser or DuckDB, such as in a Lambda function, rules come from a bundle: a JSON file with what
detections need of them. It is written where the rules can be checked.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from shopstream.detection.detection import Detection, Severity
from shopstream.engine.signals import Signal
from shopstream.errors import RuleError

if TYPE_CHECKING:
    from shopstream.detection.rule import Rule

_FORMAT: Final = 2


@dataclass(frozen=True, slots=True)
class RuleInfo:
    """The fields of a `Rule` that its detections need."""

    id: str
    version: str
    headline: str
    level: Severity
    tags: tuple[str, ...]
    key_kind: str
    condition: str
    suppress_for: int
    verdict: Literal["bot", "human", "unknown"] | None
    enabled: bool


Rules: TypeAlias = "Mapping[str, Rule | RuleInfo]"
"""Rule id → rule."""


def detection_id(rule_id: str, key: Mapping[str, str], start_ms: int) -> str:
    """32 hex characters of SHA-256 over rule, key and window start, so that a replay gives the same id."""
    text = json.dumps([rule_id, sorted(key.items()), start_ms], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def detect(signals: Iterable[Signal], rules: Rules) -> list[Detection]:
    """One detection for each signal of an enabled rule's window, in the given order; other signals are skipped."""
    return [
        _detection(signal, rule)
        for signal in signals
        if (rule := rules.get(signal.window)) is not None and rule.enabled
    ]


def _detection(signal: Signal, rule: "Rule | RuleInfo") -> Detection:
    key = {column: str(value) for column, value in signal.key.items()}
    return Detection(
        detection_id=detection_id(rule.id, key, signal.start_ms),
        rule_id=rule.id,
        rule_version=rule.version,
        title=rule.headline,
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
    """Money becomes text, so that no digit is lost; times become ISO 8601."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value) if isinstance(value, Decimal) else getattr(value, "isoformat", value.__str__)()


def write_rule_bundle(rules: Rules) -> bytes:
    """JSON text of the enabled rules, with a digest; the same rules give the same bytes."""
    bundled = [
        {field.name: getattr(rule, field.name) for field in fields(RuleInfo)}
        for _, rule in sorted(rules.items())
        if rule.enabled
    ]
    return json.dumps({"format": _FORMAT, "digest": _digest(bundled), "rules": bundled}, indent=1).encode()


def read_rule_bundle(content: bytes, name: str) -> dict[str, RuleInfo]:
    """Rule id → rule.

    Args:
        content: what `write_rule_bundle` gave.
        name: of the file, for messages.

    Raises:
        RuleError: the bundle is damaged, was changed by hand, or is of another version.
    """
    try:
        document = json.loads(content)
        if document["format"] != _FORMAT or document["digest"] != _digest(document["rules"]):
            raise RuleError(f"{name} was changed by hand or written by another version; package the function again")
        rules = [
            RuleInfo(**{**rule, "level": Severity(rule["level"]), "tags": tuple(rule["tags"])})
            for rule in document["rules"]
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RuleError(f"{name} is damaged ({type(error).__name__}); package the function again") from error
    return {rule.id: rule for rule in rules}


def _digest(rules: object) -> str:
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
