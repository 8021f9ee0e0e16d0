"""A Celery project that accepts signed messages only, and keys and certificates for it and for strangers.

The environment of a worker says where its keys are, and what comes first: ``install`` or ``setup_security``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from celery import Celery
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from mindtrace_jobs import RetryJob
from mindtrace_jobs.celery import JobContext, install, job_task
from tests.jobs.celery.models import DeedInput, DeedOutput, DeedSchema, DetectionInput, DetectionOutput, DetectionSchema

ORDERS = ["install, settings, security", "settings, install, security", "settings, security, install"]


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a key and a certificate signed by itself; returns their files."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    key_file, certificate_file = folder / f"{name}.key", folder / f"{name}.pem"
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return key_file, certificate_file


def signed_app(broker: str, results: str, keys: Path, order: str = ORDERS[-1], inner: str = "json") -> Any:
    """An app that accepts signed messages only, with typed jobs.

    Args:
        broker, results: Their URLs.
        keys: A folder with ``ours.key`` and ``ours.pem``.
        order: What is done first.
        inner: The serializer whose output is signed.
    """
    app = Celery("signed", broker=broker, backend=results, set_as_current=False)

    def settings() -> None:
        app.conf.update(
            security_key=str(keys / "ours.key"),
            security_certificate=str(keys / "ours.pem"),
            security_cert_store=str(keys / "ours.pem"),
            task_serializer="auth",
            result_serializer="auth",
            accept_content=["auth"],
            broker_connection_retry_on_startup=True,
            task_default_queue="detection_jobs",
        )

    steps: dict[str, Callable[[], object]] = {
        "install": lambda: install(app),
        "settings": settings,
        "security": lambda: app.setup_security(serializer=inner),
    }
    for step in order.split(", "):
        steps[step]()

    @app.task(name="signed.add", shared=False)  # type: ignore[untyped-decorator]
    def add(x: float, y: float) -> float:
        return x + y

    @app.task(name="signed.note", shared=False)  # type: ignore[untyped-decorator]
    def note(path: str) -> None:
        Path(path).write_text("called")

    @job_task(app, DetectionSchema)
    def detect(input: DetectionInput) -> DetectionOutput:  # noqa: A002 - what it is
        return DetectionOutput(labels=[input.image, type(input).__name__], taken=input.taken)

    @job_task(app, DeedSchema, retry_on=(OSError,), max_retries=1, bind=True)
    def deed(self: Any, input: DeedInput, context: JobContext) -> DeedOutput:  # noqa: A002
        if input.deed == "fail":
            raise RetryJob("once more", delay=0)
        if input.deed == "retry" and context.retries == 0:
            raise self.retry(countdown=0)
        Path(input.path).write_text("ran")
        return DeedOutput(attempt=context.attempt)

    return app


if "SIGNED_KEYS" in os.environ:
    app = signed_app(
        os.environ["STACK_BROKER"],
        os.environ["STACK_BACKEND"],
        Path(os.environ["SIGNED_KEYS"]),
        os.environ["SIGNED_ORDER"],
    )
