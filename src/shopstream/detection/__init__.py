"""What is wrong: rules as data, and their verdicts on windows."""

from shopstream.detection.detect import detect, detection_id
from shopstream.detection.detection import Detection, Severity
from shopstream.detection.loader import RuleProblem, load_rules, read_rules
from shopstream.detection.rule import Rule

__all__ = ["Detection", "Rule", "RuleProblem", "Severity", "detect", "detection_id", "load_rules", "read_rules"]
