"""The little of Kombu that the clients call. Kombu is mostly unannotated: this is where untyped values come in."""

from __future__ import annotations

from typing import Any

from kombu.connection import Connection as _Connection
from kombu.entity import Exchange as _Exchange
from kombu.entity import Queue as _Queue
from kombu.messaging import Consumer as _Consumer
from kombu.utils.url import url_to_parts as _url_to_parts

from mindtrace_jobs._serializer_entry import register

register()

Connection: Any = _Connection
Consumer: Any = _Consumer
Exchange: Any = _Exchange
Queue: Any = _Queue
url_to_parts: Any = _url_to_parts
