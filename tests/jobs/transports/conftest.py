"""Connections to an empty broker, one run on each transport."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.jobs.transports.kit import Connect, Transport, connections_to


@pytest.fixture(params=["memory", "redis"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """The transport that a test runs on, with the URL of an empty broker."""
    return Transport(request.param, str(request.getfixturevalue(f"{request.param}_url")))


@pytest.fixture
def connect(transport: Transport) -> Iterator[Connect]:
    """Opens connections to the empty broker, and closes them in the end."""
    with connections_to(transport.url) as connect:
        yield connect


@pytest.fixture
def channel(connect: Connect) -> Any:
    """A channel of a connection of its own."""
    return connect().default_channel
