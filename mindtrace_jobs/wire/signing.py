"""Signed jobs, for Celery apps that accept signed messages only, as after ``app.setup_security()``.

A job is signed as a plain task is: by Celery's serializer "auth", over the task body in the JSON, or other serializer, that
``setup_security`` was given. The other way round the signature is verified first, and what was signed is then read as every
other job is. Celery is imported only to tell its errors apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mindtrace_jobs import _serializer_entry as pydantic_serializer
from mindtrace_jobs.errors import ConfigurationError, DecodeError, EncodeError
from mindtrace_jobs.jobs import Job
from mindtrace_jobs.serializer import UNDECODED, encode, to_json
from mindtrace_jobs.wire.headers import COMPRESSION
from mindtrace_jobs.wire.message import EMBED, SIGNED_CONTENT_TYPE, Message
from mindtrace_jobs.wire.packing import MAX_DECOMPRESSED

#: Celery's serializer that signs.
SERIALIZER = "auth"


def signed_only(accept_content: Iterable[str] | None) -> bool:
    """Whether a Celery setting ``accept_content`` names signed content, and nothing else."""
    return bool(accept_content) and set(accept_content or ()) <= {SERIALIZER, SIGNED_CONTENT_TYPE}


def not_accepted(content_type: object) -> DecodeError:
    """The error of a message whose content type the app does not accept."""
    return DecodeError(f"content type {content_type!r:.80} is not in the app's accept_content: nothing was read")


class Signing:
    """Signs and verifies the jobs of a Celery app, if the app accepts signed messages only.

    Args:
        app: The app; its settings are read at each call, since they may come later.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    @property
    def required(self) -> bool:
        """Whether the app accepts signed messages only."""
        return signed_only(self._app.conf.accept_content)

    def serializer(self, asked: str | None = None) -> str:
        """The name of the Kombu serializer that signs.

        Args:
            asked: The serializer that the caller chose.

        Raises:
            ConfigurationError: another was chosen, or this process cannot sign.
        """
        if asked not in (None, SERIALIZER):
            raise ConfigurationError(
                f"the app accepts signed messages only, and the serializer {asked!r:.80} does not sign: leave the option "
                "`serializer` out"
            )
        _require_registered()
        return SERIALIZER

    def signed(self, message: Message, job: Job[Any]) -> Message:
        """The message of a job with a signed body.

        Raises:
            ConfigurationError: this process cannot sign, or not with the serializer that ``setup_security`` was given.
        """
        from kombu.serialization import dumps

        from mindtrace_jobs.wire.typed_json import register_types

        register_types()
        try:
            kind, encoding, body = dumps([[job], {}, EMBED], serializer=self.serializer())
        except ConfigurationError:
            raise
        except Exception as error:
            # Celery's own text has the exception of the serializer inside, which may quote the data.
            raise ConfigurationError(
                f"the job cannot be signed ({type(error).__name__}): is the key that setup_security() was given right, and "
                "its `serializer` one that takes typed jobs, which json and pydantic do?"
            ) from None
        return replace(
            message,
            body=body.encode() if isinstance(body, str) else bytes(body),
            content_type=kind,
            content_encoding=encoding,
        )

    def verified(self, message: Message, max_decompressed: int | None = MAX_DECOMPRESSED) -> Message:
        """The message in the serializer "pydantic", after its signature was verified. No model's code runs.

        Raises:
            DecodeError: it is not signed, or not by anybody in the app's ``security_cert_store``, or not readable.
            ConfigurationError: this process cannot verify.
        """
        from kombu.serialization import loads

        from mindtrace_jobs.wire.typed_json import register_types

        if message.content_type != SIGNED_CONTENT_TYPE:
            raise not_accepted(message.content_type)
        _require_registered()
        register_types()
        packed = message.unpacked(max_decompressed)
        token = UNDECODED.set(True)
        try:
            tree = _tree(loads(packed, SIGNED_CONTENT_TYPE, message.content_encoding, accept={SIGNED_CONTENT_TYPE}))
            body = to_json(tree, deep=True)
        except Exception as error:
            # No cause: it may quote the data, or what a stranger sent.
            raise _unreadable(error) from None
        finally:
            UNDECODED.reset(token)
        return replace(
            message,
            body=body,
            headers={name: value for name, value in message.headers.items() if name != COMPRESSION},
            content_type=pydantic_serializer.CONTENT_TYPE,
            content_encoding=pydantic_serializer.CONTENT_ENCODING,
        )


def _require_registered() -> None:
    """Make sure that Celery's serializer is there: without it Kombu takes the content type for plain text."""
    from kombu.serialization import registry

    if SERIALIZER not in registry.name_to_type:
        raise ConfigurationError(
            "the app accepts signed messages only, and this process can neither sign nor verify them: call "
            "app.setup_security() where the app is made"
        )


def _tree(value: Any) -> Any:
    """A body as JSON with tags: only what Kombu's JSON makes of its own tags is left to encode."""
    if isinstance(value, dict):
        return {str(key): _tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tree(item) for item in value]
    return encode(value)


def _unreadable(error: BaseException) -> DecodeError:
    from celery.exceptions import SecurityError

    # Kombu wraps what a decoder raises.
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    if isinstance(error, SecurityError):
        return DecodeError("the signature is not that of anybody in the app's security_cert_store: nothing was read")
    if isinstance(error, DecodeError | EncodeError):
        return DecodeError(str(error))
    return DecodeError(f"not a Celery task body ({type(error).__name__})")
