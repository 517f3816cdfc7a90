"""A processor of signals over a folder, with a store of states and receivers that fail as told."""

import json

from aws_lambda_powertools import Logger

from lambdas.hour import START_MS, rules
from shopstream.clock import ManualClock
from shopstream.detection.allowlist import AllowList
from shopstream.detection.detectors.shipped import shipped_runner
from shopstream.detection.rule_matcher import read_rule_bundle, write_rule_bundle
from shopstream.detection.runner import LocalDetectionRunner
from shopstream.detection.settings import DetectionSettings
from shopstream.errors import StateError
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.recorder import IncidentRecorder
from shopstream.incidents.settings import IncidentSettings, NotifySettings
from shopstream.lambdas.signal_processor import SignalProcessor
from shopstream.lambdas.state import SavedState

PLENTY_MS = 100_000


class KilledError(BaseException):
    """The process ends here."""


class States:
    """Keeps JSON text, as a store does."""

    def __init__(self):
        self.saved = None
        self.fail = None

    def generation(self):
        return self.saved[0] if self.saved else 0

    def load(self):
        return SavedState(self.saved[0], *json.loads(self.saved[1])) if self.saved else None

    def save(self, state, positions, *, until_ms, expected_generation):
        fail, self.fail = self.fail, None
        if fail == "before":
            raise KilledError
        if isinstance(fail, Exception):
            raise fail
        if expected_generation != self.generation():
            raise StateError("another has saved meanwhile")
        self.saved = (expected_generation + 1, json.dumps([state, positions, until_ms]))
        if fail == "after":
            raise KilledError
        return self.saved[0]


class Gathered(list):
    """Final detections, or failed records."""

    fail = None

    def deliver(self, detections):
        fail, self.fail = self.fail, None
        if fail:
            raise fail
        self.extend(detections)

    def add(self, record, reason):
        self.append((record.sequence_number, reason))


class Shop:
    """A processor over one folder; `processor()` is another process that goes on where the last one was."""

    def __init__(self, folder):
        self.path = folder / "incidents.db"
        self.states, self.delivered, self.failed = States(), Gathered(), Gathered()
        self.rules = read_rule_bundle(write_rule_bundle(rules()), "rules")
        self.opened = []

    def runner(self):
        return LocalDetectionRunner(self.rules, shipped_runner(DetectionSettings()), AllowList())

    def recorder(self):
        store = EmbeddedIncidentStore(self.path, ManualClock(START_MS))
        self.opened.append(store)
        return IncidentRecorder(store, IncidentSettings(), NotifySettings(), ManualClock(START_MS))

    def processor(self, **changed):
        detectors = shipped_runner(DetectionSettings())
        parts = {
            "runner": self.runner,
            "recorder": self.recorder,
            "known": frozenset([*self.rules, *detectors.reads]),
            "states": self.states,
            "sink": self.delivered,
            "failed": self.failed,
            "logger": Logger(service="test"),
        }
        return SignalProcessor(**{**parts, **changed})

    def close(self):
        for store in self.opened:
            store.close()


def left():
    return PLENTY_MS
