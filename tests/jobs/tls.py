"""Throw-away certificates, and servers that present them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import trustme

from tests.jobs.servers import RabbitMQServer, RedisServer
from tests.jobs.servers.base import HOST, free_port


class Certificates:
    """A certificate authority of one's own, a certificate it issued for 127.0.0.1, and a stranger's authority.

    Args:
        folder: Where the files go.
    """

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.authority = folder / "authority.pem"
        self.stranger = folder / "stranger.pem"
        self.certificate = folder / "server.pem"
        self.key = folder / "server.key"
        authority.cert_pem.write_to_path(str(self.authority))
        trustme.CA().cert_pem.write_to_path(str(self.stranger))
        issued = authority.issue_cert(HOST)
        issued.cert_chain_pems[0].write_to_path(str(self.certificate))
        issued.private_key_pem.write_to_path(str(self.key))


class TLSRedisServer(RedisServer):
    """A Redis server that speaks nothing but TLS.

    Args:
        certificates: What it presents; with ``mutual`` clients must present one of that authority, too.
    """

    def __init__(self, certificates: Certificates, *, mutual: bool = False) -> None:
        super().__init__()
        self._options |= {
            "port": "0",
            "tls-port": str(self.port),
            "tls-cert-file": str(certificates.certificate),
            "tls-key-file": str(certificates.key),
            "tls-ca-cert-file": str(certificates.authority),
            "tls-auth-clients": "yes" if mutual else "no",
        }
        self._authority = certificates.authority

    def url(self, database: int = 0) -> str:
        """``rediss://`` URL of a database, without a word about certificates."""
        return f"rediss://{HOST}:{self.port}/{database}"

    def checked_url(self, database: int = 0) -> str:
        """The same with the authority in it, as Kombu and Celery understand it."""
        authority = quote(str(self._authority), safe="")
        return f"{self.url(database)}?ssl_cert_reqs=required&ssl_ca_certs={authority}"


class TLSRabbitMQServer(RabbitMQServer):
    """A RabbitMQ node that speaks TLS on a port of its own, ``tls_port``."""

    def __init__(self, certificates: Certificates) -> None:
        self.tls_port = free_port()
        super().__init__(
            config=f"""
listeners.ssl.1 = {HOST}:{self.tls_port}
ssl_options.cacertfile = {certificates.authority}
ssl_options.certfile = {certificates.certificate}
ssl_options.keyfile = {certificates.key}
ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
"""
        )
