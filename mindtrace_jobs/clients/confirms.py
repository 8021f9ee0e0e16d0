"""Publisher confirms on one RabbitMQ channel: one wait for any number of messages.

py-amqp's own ``confirm_publish`` waits after every message, and after a returned one takes the confirm of the next for
that of the last. Here every message is followed by its delivery tag (https://www.rabbitmq.com/docs/confirms).
"""

from __future__ import annotations

import time
from itertools import takewhile
from typing import Any

from mindtrace_jobs.clients.session import Session
from mindtrace_jobs.errors import UnconfirmedError


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
        channel = session.channel
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)

    def expect(self, key: str) -> None:
        """The next message sent on the channel counts as ``key``."""
        self._last_tag += 1
        self._pending[self._last_tag] = key

    def wait(self, timeout: float | None = None) -> dict[str, tuple[str, bool]]:
        """Wait for the broker's word on all that was published. After UnconfirmedError it can be waited for again.

        Args:
            timeout: Seconds, if not the usual ones; 0: only read what is there.

        Returns:
            For each key that was not accepted: what the broker said, and whether no queue was there to take it.

        Raises:
            UnconfirmedError: no word within the timeout; the messages may or may not be there.
        """
        timeout = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        while self._pending:
            left = deadline - time.monotonic()
            try:
                self._session.connection.drain_events(timeout=max(left, 0.001))  # 0 would be no limit
            except TimeoutError:
                if left > 0:
                    continue
                raise UnconfirmedError(
                    f"the broker did not confirm {len(self._pending)} message(s) within {timeout:g} s; it may be "
                    "blocking publishers because memory or disk run out (see its log)"
                ) from None
        refused, self._refused = self._refused, {}
        return refused

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
