"""The topic exchange as AMQP has it."""

from __future__ import annotations

import re
from itertools import groupby

from kombu.transport.virtual import exchange


class TopicExchange(exchange.TopicExchange):
    """Topic exchange whose ``#`` stands for any number of words, none included, as in AMQP.

    Kombu's own asks for a dot beside each ``#``: there ``logs.#`` does not match ``logs``.
    """

    def key_to_pattern(self, rkey: str) -> str:
        """The regular expression that matches the routing keys meant by a binding's pattern."""
        words = [word for word, repeats in groupby(rkey.split(".")) for _ in (repeats if word != "#" else "#")]
        if words == ["#"]:
            return ".*"
        pattern = ""
        separator = ""  # what stands between the part so far and the next word
        for word in words:
            if word == "#":
                # The dot belongs to the optional words, so that it vanishes with them.
                pattern += r"(?:\.[^.]*)*" if separator else r"(?:[^.]*\.)*"
                continue
            pattern += separator + (r"[^.]+" if word == "*" else re.escape(word))
            separator = r"\."
        return rf"^{pattern}\Z"
