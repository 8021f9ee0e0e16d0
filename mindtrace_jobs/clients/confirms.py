"""Publisher confirms on one RabbitMQ channel: one wait for any number of messages.

py-amqp's own ``confirm_publish`` waits after every message, and after a returned one takes the confirm of the next for
that of the last. Here every message is followed by its delivery tag (https://www.rabbitmq.com/docs/confirms).
"""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import takewhile
from typing import Any
from uuid import uuid4

from mindtrace_jobs.clients.session import Session
from mindtrace_jobs.errors import UnconfirmedError

#: Seconds within which a broker that takes messages says so.
_ANSWER_TIMEOUT = 2.0


class Confirms:
    """Counts what this channel publishes and what the broker says of it.

    Args:
        session: Its channel is put into confirm mode.
        timeout: Seconds to wait for the broker's word.
    """

    def __init__(self, session: Session, timeout: float) -> None:
        self._session = session
        self._timeout = timeout
        self._last_tag = 0
        self._pending: dict[int, str] = {}
        self._refused: dict[str, tuple[str, bool]] = {}
        self._blocked = False
        connection = session.connection.connection
        connection.on_blocked, connection.on_unblocked = self._on_blocked, self._on_unblocked
        channel = session.channel
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)

    def expect(self, key: str) -> None:
        """The next message sent on the channel counts as ``key``."""
        self._last_tag += 1
        self._pending[self._last_tag] = key

    def wait(self) -> dict[str, tuple[str, bool]]:
        """Wait for the broker's word on all that was published.

        Returns:
            For each key that was not accepted: what the broker said, and whether no queue was there to take it.

        Raises:
            UnconfirmedError: no word within the timeout; the messages may or may not be there.
        """
        if not self._confirmed_within(self._timeout):
            raise UnconfirmedError(
                f"the broker did not confirm {len(self._pending)} message(s) within {self._timeout:g} s; it may be "
                "blocking publishers because memory or disk run out (see its log)"
            )
        refused, self._refused = self._refused, {}
        return refused

    def broker_takes_messages(self) -> bool:
        """Ask whether the broker takes messages now, with one that it drops, as there is no queue for it.

        While its memory or disk runs out, RabbitMQ reads nothing more from a connection that publishes, and says so. What
        was sent by then is published when that is over, whether the connection is closed or not; so what must not be
        published twice is only sent after this. See https://www.rabbitmq.com/docs/connection-blocked.

        Returns:
            False if it does not, or has not said so within two seconds; the session is of no use then.
        """
        self.expect("")
        channel = self._session.channel
        message = channel.prepare_message(b"")
        channel.basic_publish(message, exchange="", routing_key=f"mindtrace.nowhere.{uuid4().hex}")
        return self._confirmed_within(_ANSWER_TIMEOUT, unless_blocked=True)

    def _confirmed_within(self, timeout: float, *, unless_blocked: bool = False) -> bool:
        deadline = time.monotonic() + timeout
        while self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or (unless_blocked and self._blocked):
                return False
            with suppress(TimeoutError):
                self._session.connection.drain_events(timeout=left)
        return True

    def _on_blocked(self, _reason: str) -> None:
        self._blocked = True

    def _on_unblocked(self) -> None:
        self._blocked = False

    def _settle(self, tag: int, multiple: bool) -> list[str]:
        if not multiple:
            key = self._pending.pop(tag, None)
            return [] if key is None else [key]
        # Tags rise, and dicts keep that order.
        tags = list(takewhile(lambda pending: pending <= tag, self._pending))
        return [self._pending.pop(pending) for pending in tags]

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._settle(tag, multiple)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        for key in self._settle(tag, multiple):
            self._refused.setdefault(key, ("refused by the broker (basic.nack)", False))

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        # Comes before the confirm of the same message.
        key = message.properties.get("correlation_id", "")
        text = getattr(error, "reply_text", None) or str(error)
        self._refused[key] = (f"{text} (exchange {exchange!r}, routing key {routing_key!r})", True)
