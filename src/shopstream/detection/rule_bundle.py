"""Rules without their SQL: what judging signals needs of them, checked once and carried as data.

Where windows are computed elsewhere, a rule is only what its detections repeat of it. A pack is made where rules can be
checked (a SQL parser and DuckDB are there) and read where they cannot.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, Literal

from shopstream.detection.detection import Severity
from shopstream.detection.rule_matcher import RuleWords
from shopstream.errors import RuleError

__all__ = ["PackedRule", "pack_rules", "unpack_rules"]

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class PackedRule:
    """See `judge.RuleWords`; all in a pack are switched on."""

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


def pack_rules(rules: Mapping[str, RuleWords]) -> bytes:
    """JSON text of the rules that are switched on, with a digest; the same rules give the same bytes."""
    packed = [
        asdict(
            PackedRule(
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


def unpack_rules(content: bytes, name: str) -> dict[str, PackedRule]:
    """Rule id → rule.

    Args:
        content: what `pack_rules` gave.
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
            PackedRule(**{**rule, "level": Severity(rule["level"]), "tags": tuple(rule["tags"])})
            for rule in document["rules"]
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RuleError(f"{name} is damaged ({type(error).__name__}); package the function again") from error
    return {rule.id: rule for rule in rules}


def _digest(rules: object) -> str:
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
