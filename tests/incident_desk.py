"""Incidents as an engine keeps them: a recorder, a store, and the checkpoints that a restart goes on from."""

import json
from contextlib import closing
from dataclasses import replace

from shopstream.clock import ManualClock
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.recorder import IncidentRecorder
from shopstream.incidents.settings import IncidentSettings, NotifySettings


class Desk:
    """Records detections; everything else is the store's.

    `commit` makes a checkpoint, `restart` goes on from the last one in a process of its own.
    """

    def __init__(self, open_store, settings=None, clock=None, targets=(), notify=None):
        self._open = open_store
        self.settings, self.notify = settings or IncidentSettings(), notify or NotifySettings()
        self.clock, self._targets = clock or ManualClock(5_000), targets
        self._saved = (None, 0)
        self._store = None
        self.restart()

    def __getattr__(self, name):
        return getattr(self._store, name)

    def restart(self):
        if self._store:
            self._store.close()
        self._store = self._open()
        self._recorder = IncidentRecorder(self._store, self.settings, self.notify, self.clock, self._targets)
        snapshot, generation = self._saved
        self._recorder.restore(None if snapshot is None else json.loads(snapshot), generation)

    def apply(self, detections, watermark_ms, clock_ms=None):
        return self._recorder.apply(detections, watermark_ms, clock_ms)

    def commit(self):
        generation = self._saved[1] + 1
        self._saved = json.dumps(self._recorder.snapshot()), generation
        self._recorder.begin(generation + 1)


def sqlite_desk(path, settings=None, clock=None, targets=(), notify=None):
    """A desk over a SQLite file."""
    clock = clock or ManualClock(5_000)
    return Desk(lambda: EmbeddedIncidentStore(path, clock), settings, clock, targets, notify)


def read_incidents(path):
    """What a SQLite file has, as another process reads it."""
    with closing(EmbeddedIncidentStore(path, ManualClock())) as store:
        return store.list()


def incidents_and_parts(store):
    """All incidents of a store and their parts, by id, without what recent events said and how often people heard."""
    return {
        part.id: replace(part, context=None, notifications=0)
        for incident in store.list()
        for part in [*store.parts(incident.id), incident]
    }
