"""Sends notifications about incidents, beside the stream and never in its way.

1. The store queues a notification in the transaction that opened the incident.
2. The sender takes what is due: one incident in detail, several in one digest, at most one message per target and
   `notify.interval`. What has become part of another incident meanwhile is shown as that one.
3. The channel delivers it, or fails; then the next attempt waits exponentially longer, with jitter, across restarts.
4. The delivery is noted. A crash between 3 and 4 sends the same message again, with the same reference.
"""

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from tenacity import RetryCallState, Retrying, wait_exponential_jitter

from shopstream.clock import MILLISECOND, Clock
from shopstream.detection.detection import SEVERITIES
from shopstream.errors import RetryableError, ShopstreamError
from shopstream.incidents.ports import DeliveryState, IncidentStore, Notification
from shopstream.incidents.settings import NotifySettings
from shopstream.notify.message import Message, Notice, digest, notice_of
from shopstream.notify.ports import NotificationChannel

_FIRST_WAIT_S = 1
_POLLS = 10
"""So many polls a sender that cannot be made is waited for."""
_SCHEME = re.compile(r"([a-z][a-z0-9+]{0,20})://", re.ASCII)
_LOGGER = logging.getLogger(__name__)


def targets_of(settings: NotifySettings, topic_arn: str | None = None) -> tuple[str, ...]:
    """A name for each address, safe to show and the same after a restart: service and a digest, `slack-3f9a1c`.

    Args:
        settings: whose addresses come first.
        topic_arn: an SNS topic that comes last, as `sns-…`.
    """
    targets = []
    for secret in settings.urls:
        address = secret.get_secret_value()
        scheme = _SCHEME.match(address)
        targets.append(_target(scheme[1] if scheme else "unknown", address))
    if topic_arn is not None:
        targets.append(_target("sns", topic_arn))
    return tuple(targets)


def _target(service: str, address: str) -> str:
    return f"{service}-{hashlib.sha256(address.encode()).hexdigest()[:6]}"


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What one pass did: notifications delivered, to be tried again, and given up; and messages sent."""

    sent: int = 0
    retried: int = 0
    given_up: int = 0
    messages: int = 0


class Sender:
    """Delivers what is due. One object belongs to one thread.

    Args:
        store: knows what is to be sent.
        channels: where messages go.
        settings: interval, attempts, waits, and whether actors are named.
        clock: processing time.
    """

    def __init__(
        self, store: IncidentStore, channels: Sequence[NotificationChannel], settings: NotifySettings, clock: Clock
    ) -> None:
        self._store = store
        self._channels = tuple(channels)
        self._settings = settings
        self._clock = clock
        self._wait = wait_exponential_jitter(multiplier=_FIRST_WAIT_S, max=settings.backoff_max, jitter=_FIRST_WAIT_S)
        self._not_before_ms: dict[str, int] = {}

    def deliver_pending(self, *, at_once: bool = False) -> DeliveryReport:
        """One pass over all targets; one target's trouble is not another's.

        Args:
            at_once: do not wait for the interval to pass, because the process is about to end.
        """
        total = DeliveryReport()
        for channel in self._channels:
            now_ms = self._clock.now_ms()
            if not at_once and now_ms < self._not_before_ms.get(channel.target, now_ms):
                continue
            waiting = self._store.pending(channel.target, now_ms)
            if waiting:
                done = self._deliver(channel, waiting)
                total = DeliveryReport(
                    total.sent + done.sent,
                    total.retried + done.retried,
                    total.given_up + done.given_up,
                    total.messages + done.messages,
                )
        return total

    def close(self) -> None:
        """Give the store back."""
        self._store.close()

    def _deliver(self, channel: NotificationChannel, waiting: Sequence[Notification]) -> DeliveryReport:
        there = self._store.statuses({one.incident_id for one in waiting})
        gone = [one.reference for one in waiting if one.incident_id not in there]
        if gone:
            self._store.mark(gone, channel.target, DeliveryState.FAILED, self._clock.now_ms(), "the incident is gone")
            waiting = [one for one in waiting if one.incident_id in there]
            if not waiting:
                return DeliveryReport(given_up=len(gone))
        message = self._message(waiting)
        references = [one.reference for one in waiting]
        try:
            channel.send(message)
        except RetryableError as error:
            return self._failed(channel.target, waiting, str(error))
        now_ms = self._clock.now_ms()
        self._store.mark(references, channel.target, DeliveryState.SENT, now_ms)
        self._not_before_ms[channel.target] = now_ms + self._settings.interval // MILLISECOND
        return DeliveryReport(sent=len(waiting), messages=1)

    def _message(self, waiting: Sequence[Notification]) -> Message:
        keys = self._settings.keys
        found: dict[str, Notice] = {}
        for one in waiting:
            incident = self._store.get(one.incident_id)
            if incident.parent:
                incident = self._store.get(incident.parent)
            notice = Notice(one.reference, one.kind, one.severity, incident)
            known = found.get(incident.id)
            if known is None or SEVERITIES.index(known.severity) < SEVERITIES.index(one.severity):
                found[incident.id] = notice
        notices = list(found.values())
        return notice_of(notices[0], keys=keys) if len(notices) == 1 else digest(notices, keys=keys)

    def _failed(self, target: str, waiting: Sequence[Notification], error: str) -> DeliveryReport:
        now_ms = self._clock.now_ms()
        last = self._settings.attempts - 1
        over = [one.reference for one in waiting if one.attempts >= last]
        again = [one.reference for one in waiting if one.attempts < last]
        wait = self._wait_after(1 + max((one.attempts for one in waiting if one.attempts < last), default=0))
        due_ms = now_ms + wait // MILLISECOND
        if over:
            self._store.mark(over, target, DeliveryState.FAILED, now_ms, error)
            _LOGGER.error(
                "%d notifications to %s were given up after %d attempts: %s; see `shopstream notify list`",
                len(over), target, self._settings.attempts, error,
            )  # fmt: skip
        if again:
            self._store.mark(again, target, DeliveryState.PENDING, due_ms, error)
        self._not_before_ms[target] = due_ms
        return DeliveryReport(retried=len(again), given_up=len(over))

    def _wait_after(self, attempts: int) -> timedelta:
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = attempts
        return timedelta(seconds=self._wait(state))


class BackgroundSender:
    """Runs a sender in a thread of its own, so that no slow receiver holds up the stream.

    Args:
        build: makes the sender; called in the thread, because channels take a while to load.
        poll: how often the outbox is looked at.
    """

    def __init__(self, build: Callable[[], Sender], poll: timedelta = timedelta(seconds=1)) -> None:
        self._build = build
        self._poll = poll
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shopstream-notify", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def stop(self, timeout: timedelta = timedelta(seconds=10)) -> bool:
        """Make a last pass and end; what could not be delivered in this time waits for the next start.

        Returns:
            Whether the thread has ended.
        """
        self._stop.set()
        self._thread.join(timeout.total_seconds())
        return not self._thread.is_alive()

    def _built(self) -> Sender | None:
        """The sender, once what it needs can be reached; None where that can never be, or nobody waits any more."""
        while True:
            try:
                return self._build()
            except RetryableError as error:
                _LOGGER.warning("notifications wait: %s", error)
            except ShopstreamError as error:
                _LOGGER.error("notifications are not delivered: %s", error)  # noqa: TRY400  the message says it all
                return None
            if self._stop.wait(_POLLS * self._poll.total_seconds()):
                return None

    def _run(self) -> None:
        sender = self._built()
        if sender is None:
            return
        try:
            while True:
                ending = self._stop.is_set()
                try:
                    sender.deliver_pending(at_once=ending)
                except ShopstreamError as error:
                    _LOGGER.warning("notifications wait: %s", error)
                except Exception as error:  # noqa: BLE001  one bad pass must not silence all that come
                    _LOGGER.error("notifications wait: %s", type(error).__name__)  # noqa: TRY400  may hold an address
                if ending:
                    return
                self._stop.wait(self._poll.total_seconds())
        finally:
            sender.close()
