"""Redaction: URLs are shown, and drivers' errors quoted, without the secrets that a URL or its options hold.

A URL is written by hand, and may be wrong: an unescaped ``/`` or ``;`` in a password makes something else of it for every
parser. So a secret is looked for in each place where one may stand, and where two readings are possible, the one that
hides more is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

from kombu.transport import TRANSPORT_ALIASES

from mindtrace_jobs.errors import summary

_MASK = "**"
#: The start of a URL in a list separated by ";". Celery's may begin with a class, "module:Class+scheme://".
_SCHEME = re.compile(r"(?:^|;)\s*(?:[\w.]+:\w+\+)?[A-Za-z][\w+.\-]*://")
_URL_IN_TEXT = re.compile(r"(?<![\w+.\-])[A-Za-z][\w+.\-]*://[^\s'\"<>]+")
_HOSTS = re.compile(r"(?:\[[^\]@]*\]|[^/@:,;?#\s]*)(?::\d+)?(?:[,;](?:\[[^\]@]*\]|[^/@:,;?#\s]*)(?::\d+)?)*(?:/[^@]*)?")
#: Names of options have no digits, passwords often do.
_QUERY_ITEM = re.compile(r"[A-Za-z_][A-Za-z_.\-]*=.*", re.DOTALL)
_PORT_OR_IPV6 = re.compile(r"[\dA-Fa-f:.]*")

#: ``name=value`` in a query or an option list, also percent-encoded, as ODBC's in a query.
_OPTION = re.compile(r"(^|[?&#;,/\s]|%3B|%26|%20|\+)([A-Za-z][\w.\-]*)\s?(?:=|%3D)", re.IGNORECASE)
_NEXT = r"[A-Za-z][A-Za-z_.\-]*\s?(?:=|%3D)"
#: What ends a value, by what stands in front of its name. Only a separator before another option does: a password may
#: hold the separator itself.
_ENDS = {
    separator: re.compile(f"(?:{ends}){_NEXT}", re.IGNORECASE)
    for separator, ends in {
        "?": "&",
        "&": "&",
        "%3b": "%3B|&",
        "%26": "%26|&",
        "%20": r"%20|\+|%3B|&",
        "+": r"%20|\+|%3B|&",
        ",": "[,;&]",
        " ": r"[\s;&]",
    }.items()
}
_LIST_ENDS = re.compile(f"[;&]{_NEXT}", re.IGNORECASE)

_SECRET_NAMES = {"pass", "pw", "sas", "sig", "sentinelkwargs", "authmechanismproperties"}
_SECRET_PARTS = ("password", "passwd", "passphrase", "secret")
_SECRET_ENDS = (
    *("pwd", "userpass", "dbpass", "token", "signature", "credential", "credentials"),
    *("apikey", "accesskey", "accountkey", "authkey", "masterkey", "privatekey"),
)
#: Shorter ones may be a part of any word.
_SHORT, _SHORTEST = 6, 4
_DEEPEST = 8


class RedactedError(Exception):
    """Stands in a chain of causes for an error whose own text holds a secret."""


def without_password(url: str) -> str:
    """A URL, several separated by ``;``, or a host, with ``**`` for each password and other secret. Never raises."""
    shown, last = [], 0
    for start, end in _spans(url):
        shown += [url[last:start], _MASK]
        last = end
    return "".join([*shown, url[last:]])


def first_url(urls: str) -> str:
    """The first of several URLs separated by ``;``, where a password with a ``;`` in it is not cut."""
    spans = _spans(urls)
    for semicolon in re.finditer(";", urls):
        if not any(start <= semicolon.start() < end for start, end in spans):
            return urls[: semicolon.start()]
    return urls


class Redactor:
    """The secrets of a URL and of options, to be removed from what a driver says.

    Args:
        url: A URL, or several separated by ``;``.
        options: Nested settings, in which secrets are told by their names.

    Attributes:
        shown: The URL without its secrets.
    """

    def __init__(self, url: str, *options: Any) -> None:
        self.shown = without_password(url)
        self._url = url
        self._options = options

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shown!r})"

    def redact(self, text: str) -> str:
        """A text with ``**`` for each of the secrets, however it is escaped, and for those of other URLs in it."""
        if self._pattern is not None:
            text = self._pattern.sub(_MASK, text)
        return _URL_IN_TEXT.sub(lambda url: without_password(url[0]), text)

    def cause(self, error: BaseException) -> BaseException:
        """The error itself as a cause to name; if its text, or that of its own causes, holds a secret, a stand-in."""
        texts = [summary(one) + "".join(_notes(one)) for one in _chain(error)]
        if all(self.redact(text) == text for text in texts):
            return error
        text = f"{type(error).__name__}: {self.redact(summary(error))}"
        return RedactedError(text).with_traceback(error.__traceback__)

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        # Not before there is an error.
        known = [self._url[start:end] for start, end in _spans(self._url)]
        for options in self._options:
            known += _secrets_in(options)
        forms = {form for secret in known for form in _forms(secret)}
        alternatives = [self._alternative(form) for form in sorted(forms, key=len, reverse=True)]
        return re.compile("|".join(alternatives), re.IGNORECASE) if alternatives else None

    def _alternative(self, secret: str) -> str:
        escaped = re.escape(secret)
        if len(secret) < _SHORTEST or secret.lower() in self.shown.lower():
            # Too common to be looked for everywhere: "guest" is the name of RabbitMQ's user, too.
            return rf"(?<=:){escaped}(?=@)|(?<==){escaped}(?=[&;\s'\"]|$)"
        return rf"(?<!\w){escaped}(?!\w)" if len(secret) < _SHORT else escaped


def _forms(secret: str) -> Iterator[str]:
    """The ways in which a secret may be quoted: decoded, encoded, as a literal, and in pieces, for who splits a URL at it."""
    for plain in {secret, unquote(secret), unquote_plus(secret)}:
        yield from filter(None, (plain, quote(plain, safe="", errors="replace"), repr(plain)[1:-1]))
        yield from (piece for piece in re.split(r"[;/@?#:&=]", plain) if len(piece) >= _SHORTEST)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, its causes and contexts, and the members of groups."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


def _notes(error: BaseException) -> Iterator[str]:
    for note in getattr(error, "__notes__", None) or ():
        yield f"\n{note}"


def _secrets_in(value: Any, depth: int = 0) -> Iterator[str]:
    """The secrets in nested settings: values by their names, and those in URLs."""
    if depth > _DEEPEST:
        return
    if isinstance(value, str):
        yield from (value[start:end] for start, end in _spans(value) if "://" in value)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if isinstance(item, str | bytes) and _is_secret(str(name)):
                text = item.decode(errors="replace") if isinstance(item, bytes) else item
                if text:
                    yield text
            else:
                yield from _secrets_in(item, depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _secrets_in(item, depth + 1)


def _is_secret(name: str) -> bool:
    """Whether an option of this name holds a secret."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    return plain in _SECRET_NAMES or plain.endswith(_SECRET_ENDS) or any(part in plain for part in _SECRET_PARTS)


def _spans(text: str) -> list[tuple[int, int]]:
    """Where in a text of URLs secrets stand, in order and apart."""
    found: list[tuple[int, int]] = []
    schemes = [scheme for scheme in _SCHEME.finditer(text) if scheme.start() == 0 or _of_a_list(scheme[0], text)]
    before = schemes[0].start() if schemes else len(text)
    found += _user_info(text, 0, before, named=False)
    found += _options(text, 0, before)
    for number, scheme in enumerate(schemes, 1):
        end = schemes[number].start() if number < len(schemes) else len(text)
        found += _user_info(text, scheme.end(), end, named=True)
        found += _options(text, scheme.end(), end)
    merged: list[tuple[int, int]] = []
    for start, end in sorted(span for span in found if span[0] < span[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _of_a_list(start: str, text: str) -> bool:
    """Whether what reads as the start of a further URL is one: it could be a piece of a password."""
    scheme = start.lstrip("; \t\r\n").partition("://")[0].partition("+")[0].lower()
    return scheme in TRANSPORT_ALIASES or text[: len(scheme) + 3].lower() == f"{scheme}://"


def _user_info(text: str, start: int, end: int, *, named: bool) -> Iterator[tuple[int, int]]:
    """The password between the first ":" and the last "@" of a URL; ``start`` is behind its scheme, if it has one."""
    query = text.find("?", start, end)
    at = text.rfind("@", start, end)
    if query >= 0 and at > query and _reads_as_query(text, start, query, end):
        for item in re.finditer(r"[^&]+", text[query + 1 : end]):
            if "@" in item[0]:
                yield query + 1 + item.start() + item[0].index("=") + 1, query + 1 + item.end()
        at = text.rfind("@", start, query)
    if at >= 0:
        colon = text.find(":", start, at)
        if colon >= 0:
            yield colon + 1, at
    elif named:
        yield from _misplaced(text, start, end)


def _reads_as_query(text: str, start: int, query: int, end: int) -> bool:
    """Whether what stands around a "?" is hosts and a query, although there is an "@" in it."""
    hosts = text[start:query].rpartition("@")[2]
    items = text[query + 1 : end].split("&")
    return _HOSTS.fullmatch(hosts) is not None and all(_QUERY_ITEM.fullmatch(item) for item in items)


def _misplaced(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """What stands in the place of a port and is none: a password, if the host was forgotten."""
    for host in re.finditer(r"[^,;]+", re.split(r"[/?#]", text[start:end], maxsplit=1)[0]):
        colon = host[0].find(":")
        if colon < 0 or "=" in host[0] or host[0].startswith("[") or _PORT_OR_IPV6.fullmatch(host[0], colon):
            continue
        yield start + host.start() + colon + 1, start + host.end()


def _options(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The values of options whose names say that they are secret."""
    at = max(start - 1, 0)  # with the separator before it
    while option := _OPTION.search(text, at, end):
        at = option.end()
        if _is_secret(option[2]):
            before = " " if option[1].isspace() else option[1].lower()
            following = _ENDS.get(before, _LIST_ENDS).search(text, at, end)
            at = following.start() if following else end
            yield option.end(), at
