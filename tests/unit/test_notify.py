"""Notifications against a real HTTP receiver that fails first."""

import json
import logging
import sqlite3
import threading
import time
from contextlib import closing
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from factories import make_detection
from incident_desk import sqlite_desk
from shopstream.cli import app
from shopstream.clock import ManualClock, SystemClock
from shopstream.config import load_settings
from shopstream.detection.detection import Severity
from shopstream.errors import ConfigurationError, RetryableError
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.ports import DeliveryState
from shopstream.incidents.settings import IncidentSettings, NotifySettings
from shopstream.notify.channels import open_channels
from shopstream.notify.message import Message
from shopstream.notify.sender import BackgroundSender, DeliveryReport, Sender, targets_of

# Apprise loads its e-mail plug-in together with all others, and that one a module that Python 3.13 drops.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

TOKEN = "s3cr3t-t0ken"  # noqa: S105  the point is that it shows nowhere


class Receiver:
    """A webhook: answers with the given HTTP statuses, then 200; None keeps the caller waiting."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.messages = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = receiver.answers.pop(0) if receiver.answers else 200
                if answer is None:
                    receiver.release.wait(20)
                    return
                if answer == 200:
                    receiver.messages.append((body["title"], body["message"]))
                self.send_response(answer)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.release = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self):
        return f"json://127.0.0.1:{self._server.server_port}/{TOKEN}?rto=0.5&cto=0.5"

    def stop(self):
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.stop()


def detection(user, start_ms=0, severity=Severity.HIGH):
    return make_detection(start_ms, {"user_id": str(user)}, severity=severity, tags=(), last_event_ms=start_ms + 9_000)


class Office:
    """A store and its sender, under one clock."""

    def __init__(self, path, urls, incidents=None, **settings):
        self.path = path / "incidents.db"
        self.clock = ManualClock(1_000_000)
        self.settings = NotifySettings(urls=tuple(map(SecretStr, urls)), **{"hold": timedelta(0)} | settings)
        incidents = IncidentSettings(**{"campaign_within": timedelta(0)} | (incidents or {}))
        self.store = sqlite_desk(self.path, incidents, self.clock, targets_of(self.settings), self.settings)
        self.sender = self.new_sender()

    def new_sender(self):
        channels = open_channels(self.settings.urls, targets_of(self.settings))
        return Sender(EmbeddedIncidentStore(self.path, self.clock), channels, self.settings, self.clock)

    def states(self):
        return [one.state for one in self.store.notifications()]

    def close(self):
        self.sender.close()
        self.store.close()


@pytest.fixture
def office(tmp_path):
    opened = []

    def make(*urls, **settings):
        opened.append(Office(tmp_path, urls, **settings))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def sender_of(path, settings):
    channels = open_channels(settings.urls, targets_of(settings))
    return Sender(EmbeddedIncidentStore(path, SystemClock()), channels, settings, SystemClock())


def test_one_incident_is_notified_in_detail_and_once(office, receiver):
    desk = office(receiver.url)
    desk.store.apply([detection(7)], 0)
    assert desk.sender.deliver_pending() == DeliveryReport(sent=1, messages=1)
    desk.store.apply([detection(7, 1_000)], 0)
    desk.store.apply([], 1_000_000)
    desk.clock.advance(timedelta(minutes=1))
    assert desk.sender.deliver_pending() == DeliveryReport()
    ((title, body),) = receiver.messages
    incident = desk.store.list()[0]
    assert title == "[high] Too fast"
    assert f"shopstream incidents show {incident.id}" in body
    assert f"Reference: {incident.id}:high" in body
    assert "20" in body


def test_the_actor_is_named_only_if_configured(tmp_path, office, receiver):
    desk = office(receiver.url)
    desk.store.apply([detection(987_654)], 0)
    desk.sender.deliver_pending()
    assert "987654" not in receiver.messages[0][1]
    (tmp_path / "b").mkdir()
    other = Office(tmp_path / "b", [receiver.url], keys=True)
    other.store.apply([detection(987_654)], 0)
    other.sender.deliver_pending()
    other.close()
    assert "987654" in receiver.messages[1][1]


def test_many_at_once_are_one_digest(office, receiver):
    desk = office(receiver.url, incidents={"campaign_actors": 10_000})
    desk.store.apply([detection(user) for user in range(1_000)], 0)
    desk.store.apply([detection(5_000, severity=Severity.CRITICAL)], 0)
    assert desk.sender.deliver_pending() == DeliveryReport(sent=1_001, messages=1)
    ((title, body),) = receiver.messages
    assert title == "[critical] 1,001 incidents"
    assert "1,001 opened by rule user_burst" in body
    assert "and 996 more" in body


def test_what_comes_within_the_interval_waits_for_a_digest(office, receiver):
    desk = office(receiver.url)
    desk.store.apply([detection(1)], 0)
    assert desk.sender.deliver_pending().messages == 1
    desk.store.apply([detection(2)], 0)
    desk.store.apply([detection(3)], 0)
    assert desk.sender.deliver_pending() == DeliveryReport()
    desk.clock.advance(timedelta(seconds=10))
    assert desk.sender.deliver_pending() == DeliveryReport(sent=2, messages=1)
    desk.store.apply([detection(4)], 0)
    assert desk.sender.deliver_pending(at_once=True) == DeliveryReport(sent=1, messages=1)


def test_incidents_below_the_least_severity_are_not_notified(office, receiver):
    desk = office(receiver.url, severity=Severity.HIGH)
    desk.store.apply([detection(1, severity=Severity.MEDIUM)], 0)
    assert desk.states() == []
    desk.store.apply([detection(1, 1_000, severity=Severity.HIGH)], 0)
    assert [one.kind for one in desk.store.notifications()] == ["opened"]


def test_closing_is_notified_if_configured(office, receiver):
    desk = office(receiver.url, closed=True)
    desk.store.apply([detection(1)], 0)
    desk.sender.deliver_pending()
    desk.store.apply([], 1_000_000)
    desk.clock.advance(timedelta(seconds=10))
    desk.sender.deliver_pending()
    assert [title for title, _ in receiver.messages] == ["[high] Too fast", "[high] closed: Too fast"]
    assert ", over after " in receiver.messages[1][1]


def test_failures_are_retried_with_growing_waits_until_it_works(office):
    receiver = Receiver(500, None, 503)
    try:
        desk = office(receiver.url)
        desk.store.apply([detection(1)], 0)
        errors, waits = [], []
        for _ in range(3):
            assert desk.sender.deliver_pending() == DeliveryReport(retried=1)
            (waiting,) = desk.store.notifications()
            errors.append(waiting.error)
            waits.append(waiting.due.timestamp() - desk.clock.now_ms() / 1000)
            assert desk.sender.deliver_pending() == DeliveryReport()
            desk.clock.advance(timedelta(seconds=waits[-1] + 0.001))
        assert desk.sender.deliver_pending() == DeliveryReport(sent=1, messages=1)
        assert "HTTP 500" in errors[0]
        assert "no connection, or no answer in time" in errors[1]
        assert "HTTP 503" in errors[2]
        assert waits == sorted(waits)
        assert 1 <= waits[0] <= 2
        assert 4 <= waits[2] <= 5
        (sent,) = desk.store.notifications()
        assert (sent.state, sent.attempts, sent.error, sent.due) == (DeliveryState.SENT, 4, None, None)
    finally:
        receiver.stop()


def test_a_refused_connection_is_a_failure_that_says_so(office, receiver):
    url = receiver.url
    receiver.stop()
    desk = office(url)
    desk.store.apply([detection(1)], 0)
    assert desk.sender.deliver_pending() == DeliveryReport(retried=1)
    assert "no connection" in desk.store.notifications()[0].error


def test_attempts_survive_a_restart_and_end_in_a_visible_failure(office, caplog):
    receiver = Receiver(500, 500, 500)
    try:
        desk = office(receiver.url, attempts=3)
        desk.store.apply([detection(1)], 0)
        for expected in (DeliveryReport(retried=1), DeliveryReport(retried=1), DeliveryReport(given_up=1)):
            assert desk.sender.deliver_pending() == expected
            desk.clock.advance(timedelta(hours=1))
            desk.sender.close()
            desk.sender = desk.new_sender()
        assert desk.states() == [DeliveryState.FAILED]
        assert "given up after 3 attempts" in caplog.text
        assert desk.sender.deliver_pending() == DeliveryReport()
        assert desk.store.retry_failed(desk.clock.now_ms()) == 1
        assert desk.sender.deliver_pending() == DeliveryReport(sent=1, messages=1)
    finally:
        receiver.stop()


def test_a_notification_about_a_missing_incident_is_given_up_and_the_others_are_sent(office, receiver):
    desk = office(receiver.url)
    desk.store.apply([detection(1), detection(2)], 0)
    lost = desk.store.list()[0].id
    with closing(sqlite3.connect(desk.path)) as connection, connection:
        connection.execute("DELETE FROM incidents WHERE id = ?", (lost,))
    assert desk.sender.deliver_pending().sent == 1
    assert len(receiver.messages) == 1
    assert sorted(desk.states()) == [DeliveryState.FAILED, DeliveryState.SENT]
    assert desk.sender.deliver_pending() == DeliveryReport()


def test_one_targets_trouble_is_not_anothers(office):
    good, bad = Receiver(), Receiver(*[500] * 9)
    try:
        desk = office(bad.url, good.url)
        desk.store.apply([detection(1)], 0)
        assert desk.sender.deliver_pending() == DeliveryReport(sent=1, retried=1, messages=1)
        desk.clock.advance(timedelta(minutes=1))
        assert desk.sender.deliver_pending() == DeliveryReport(retried=1)
        assert len(good.messages) == 1
    finally:
        good.stop()
        bad.stop()


def test_a_crash_after_sending_sends_the_same_reference_again(office, receiver, monkeypatch):
    desk = office(receiver.url)
    desk.store.apply([detection(1), detection(2)], 0)

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(desk.sender._store, "mark", crash)
    with pytest.raises(KeyboardInterrupt):
        desk.sender.deliver_pending()
    again = desk.new_sender()
    assert again.deliver_pending() == DeliveryReport(sent=2, messages=1)
    again.close()
    first, second = (body.splitlines()[-1] for _, body in receiver.messages)
    assert first == second
    assert first.startswith("Reference: digest:")


def test_merged_incidents_are_not_notified_again(office, receiver):
    desk = office(receiver.url)
    desk.store.apply([detection(1), detection(1, 120_000)], 0)
    desk.sender.deliver_pending()
    desk.store.apply([detection(1, 65_000)], 0)
    desk.clock.advance(timedelta(minutes=1))
    assert desk.sender.deliver_pending() == DeliveryReport()
    desk.store.apply([detection(1, 900_000)], 0)
    assert desk.sender.deliver_pending() == DeliveryReport(sent=1, messages=1)


def test_without_addresses_nothing_is_queued(office):
    desk = office()
    desk.store.apply([detection(1)], 0)
    assert desk.states() == []


def test_the_stream_does_not_wait_for_a_receiver_that_hangs(tmp_path):
    receiver = Receiver(None, None, None)
    try:
        settings = NotifySettings(urls=(SecretStr(receiver.url.replace("0.5", "9")),))
        path = tmp_path / "incidents.db"
        store = sqlite_desk(path, None, SystemClock(), targets_of(settings), settings)
        background = BackgroundSender(
            lambda: sender_of(path, settings),
            poll=timedelta(milliseconds=10),
        )
        background.start()
        store.apply([detection(1)], 0)
        deadline = time.monotonic() + 20
        while len(receiver.answers) == 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        started = time.monotonic()
        for place in range(1, 20):
            store.apply([detection(1, place * 1_000)], 0)
        assert time.monotonic() - started < 8, "the receiver would have held it up for 9 seconds"
        receiver.release.set()
        assert background.stop(timedelta(seconds=30))
        store.close()
    finally:
        receiver.stop()


def test_the_background_sender_makes_a_last_pass(tmp_path, receiver):
    settings = NotifySettings(urls=(SecretStr(receiver.url),), hold=timedelta(0))
    path = tmp_path / "incidents.db"
    store = sqlite_desk(path, None, SystemClock(), targets_of(settings), settings)
    background = BackgroundSender(
        lambda: sender_of(path, settings),
        poll=timedelta(hours=1),
    )
    background.start()
    store.apply([detection(1)], 0)
    assert background.stop(timedelta(seconds=30))
    assert len(receiver.messages) == 1
    store.close()


def test_the_background_sender_waits_for_what_it_cannot_reach_at_the_start(tmp_path, receiver):
    settings = NotifySettings(urls=(SecretStr(receiver.url),), hold=timedelta(0))
    path = tmp_path / "incidents.db"
    store = sqlite_desk(path, None, SystemClock(), targets_of(settings), settings)
    store.apply([detection(1)], 0)
    tried = []

    def build():
        tried.append(1)
        if len(tried) < 3:
            raise RetryableError("the table cannot be reached")
        return sender_of(path, settings)

    background = BackgroundSender(build, poll=timedelta(milliseconds=1))
    background.start()
    deadline = time.monotonic() + 20
    while not receiver.messages and time.monotonic() < deadline:
        time.sleep(0.01)
    assert background.stop(timedelta(seconds=30))
    assert len(receiver.messages) == 1
    store.close()


def test_addresses_show_nowhere(tmp_path, office, receiver, caplog):
    caplog.set_level(logging.DEBUG)
    answers = Receiver(500)
    try:
        desk = office(answers.url, attempts=1)
        desk.store.apply([detection(1)], 0)
        desk.sender.deliver_pending()
        seen = [caplog.text, repr(desk.settings), desk.settings.model_dump_json(), str(desk.store.notifications())]
        seen += [file.read_bytes().decode("latin-1") for file in tmp_path.iterdir()]
        environment = {"SHOPSTREAM_NOTIFY__URLS": json.dumps([receiver.url])}
        for words in (["config"], ["config", "--format", "json"], ["notify", "test"], ["notify", "list"]):
            result = CliRunner().invoke(app, ["--home", str(tmp_path), *words], env=environment)
            assert result.exit_code == 0
            seen.append(result.output)
        assert not [text for text in seen if TOKEN in text]
        assert targets_of(desk.settings)[0].startswith("json-")
    finally:
        answers.stop()


@pytest.mark.parametrize(
    "value", [f'["{TOKEN}"', f'{{"a": "{TOKEN}"}}', f'"json://{TOKEN}"', f'["json://{TOKEN}", 7, null]', TOKEN]
)
def test_addresses_that_do_not_fit_are_not_repeated_in_the_error(monkeypatch, value):
    monkeypatch.setenv("SHOPSTREAM_NOTIFY__URLS", value)
    assert TOKEN not in outcome_of(load_settings)


def outcome_of(call):
    try:
        return str(call())
    except ConfigurationError as error:
        return str(error)


def test_an_unknown_address_is_reported_by_its_target():
    settings = NotifySettings(urls=(SecretStr(f"carrierpigeon://{TOKEN}"),))
    with pytest.raises(ConfigurationError, match="notification target carrierpigeon-") as error:
        open_channels(settings.urls, targets_of(settings))
    assert TOKEN not in str(error.value)


def test_the_test_message_reaches_the_receiver_or_fails_with_status_1(tmp_path, receiver):
    def run(*words):
        environment = {"SHOPSTREAM_NOTIFY__URLS": json.dumps([receiver.url])}
        return CliRunner().invoke(app, ["--home", str(tmp_path), "notify", "test", *words], env=environment)

    assert json.loads(run("--format", "json").stdout)[0]["result"] == "sent"
    assert receiver.messages == [("shopstream: a test", "Notifications about incidents will arrive here.")]
    receiver.answers.append(500)
    assert run().exit_code == 1


def test_a_channel_that_breaks_is_a_failure_to_retry(monkeypatch, receiver):
    settings = NotifySettings(urls=(SecretStr(receiver.url),))
    (channel,) = open_channels(settings.urls, targets_of(settings))

    def explode(**_):
        raise OSError(TOKEN)

    monkeypatch.setattr(channel._apprise, "notify", explode)
    with pytest.raises(RetryableError, match="OSError") as error:
        channel.send(Message("a", "b", Severity.LOW))
    assert TOKEN not in str(error.value)
