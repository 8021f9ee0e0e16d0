"""No secret in a message, a repr or a traceback, wherever in a URL or its options it stands."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable
from typing import Any
from unittest.mock import patch
from urllib.parse import quote, unquote

import pytest
from celery import Celery
from hypothesis import example, given
from hypothesis import strategies as st

from mindtrace_jobs import ConfigurationError, JobsError, LocalClient, Orchestrator, RabbitMQClient, RedisClient
from mindtrace_jobs.celery import install
from mindtrace_jobs.clients.errors import ErrorMapping
from mindtrace_jobs.clients.redaction import RedactedError, Redactor, without_password

SECRET = "S3cr3tW0rd"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        # User info.
        ("redis://:p4ss@host:6379/0", "redis://:**@host:6379/0"),
        ("amqp://me:p4ss@host:5672//", "amqp://me:**@host:5672//"),
        ("amqp://me:p%2F4%40ss@host/v", "amqp://me:**@host/v"),
        ("amqp://me:p4/ss@host:5672//", "amqp://me:**@host:5672//"),
        ("amqp://me:p@4ss@host:5672//", "amqp://me:**@host:5672//"),
        ("amqp://me:p?4#s:s@host:5672//", "amqp://me:**@host:5672//"),
        ("amqp://me:12/34@host:5672//", "amqp://me:**@host:5672//"),
        ("redis://me:p4ss", "redis://me:**"),
        ("redis://:p4ss/0", "redis://:**/0"),
        ("me:p4ss@host", "me:**@host"),
        (":p4ss@host:6379", ":**@host:6379"),
        ("me:p4://ss@host", "me:**@host"),
        ("db+postgresql://scott:tiger@localhost/db", "db+postgresql://scott:**@localhost/db"),
        ("sqs://AKIA123:s3/cr+t@", "sqs://AKIA123:**@"),
        ("azureservicebus://policy:k3/y+=@namespace", "azureservicebus://policy:**@namespace"),
        ("pkg.module:Backend+redis://:p4ss@host/0", "pkg.module:Backend+redis://:**@host/0"),
        # Several for failover.
        ("amqp://u:p@a:1/;amqp://v:q@b:2/", "amqp://u:**@a:1/;amqp://v:**@b:2/"),
        ("amqp://u:p@127.0.0.1:1/;amqp://u:a;S3@127.0.0.1:2/", "amqp://u:**@127.0.0.1:1/;amqp://u:**@127.0.0.1:2/"),
        ("sentinel://:p@a:1/0;sentinel://b:2?password=q", "sentinel://:**@a:1/0;sentinel://b:2?password=**"),
        ("redis://a/0?password=p;redis://:q@b/0", "redis://a/0?password=**;redis://:**@b/0"),
        # Queries.
        ("redis://host/0?password=p4ss", "redis://host/0?password=**"),
        ("redis://host/0?PassWord=p4ss&health_check_interval=5", "redis://host/0?PassWord=**&health_check_interval=5"),
        (
            "rediss://host:1/0?ssl_keyfile=/k&ssl_password=a&b;c&ssl_certfile=/c",
            "rediss://host:1/0?ssl_keyfile=/k&ssl_password=**&ssl_certfile=/c",
        ),
        ("rediss://me:p@host/0?ssl_key_password=a@b", "rediss://me:**@host/0?ssl_key_password=**"),
        ("mongodb://h1:1,h2:2/db?authSource=admin&password=x", "mongodb://h1:1,h2:2/db?authSource=admin&password=**"),
        (
            "mongodb://h/d?tls=true&tlsCertificateKeyFilePassword=x",
            "mongodb://h/d?tls=true&tlsCertificateKeyFilePassword=**",
        ),
        (
            "db+mysql://127.0.0.1/db?user=u&passwd=x&charset=utf8",
            "db+mysql://127.0.0.1/db?user=u&passwd=**&charset=utf8",
        ),
        (
            "db+mssql+pyodbc:///?odbc_connect=Driver%3D%7BX%7D%3BUID%3Du%3BPWD%3Dp%3BEncrypt%3Dyes",
            "db+mssql+pyodbc:///?odbc_connect=Driver%3D%7BX%7D%3BUID%3Du%3BPWD%3D**%3BEncrypt%3Dyes",
        ),
        (
            "s3://b/k?aws_access_key_id=AKIA&aws_secret_access_key=x/y+z&region=eu",
            "s3://b/k?aws_access_key_id=AKIA&aws_secret_access_key=**&region=eu",
        ),
        (
            "https://h/p?sv=1&SIG=a%3D&api_key=b&access_token=c&secret=d&sas=e&token=f",
            "https://h/p?sv=1&SIG=**&api_key=**&access_token=**&secret=**&sas=**&token=**",
        ),
        # Option lists.
        (
            "azureblockblob://DefaultEndpointsProtocol=https;AccountName=n;AccountKey=ab+cd/ef==;EndpointSuffix=x.net",
            "azureblockblob://DefaultEndpointsProtocol=https;AccountName=n;AccountKey=**;EndpointSuffix=x.net",
        ),
        (
            "azureblockblob://AccountKey=k==;BlobEndpoint=http://127.0.0.1:10000/n;",
            "azureblockblob://AccountKey=**;BlobEndpoint=http://127.0.0.1:10000/n;",
        ),
        (
            "Endpoint=sb://n.servicebus.windows.net/;SharedAccessKeyName=policy;SharedAccessKey=k=",
            "Endpoint=sb://n.servicebus.windows.net/;SharedAccessKeyName=policy;SharedAccessKey=**",
        ),
    ],
)
def test_what_is_secret_in_a_url_is_masked_and_the_rest_stays(url: str, shown: str) -> None:
    assert without_password(url) == shown
    assert without_password(shown) == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory://",
        "memory://of-my-own",
        "localhost",
        "host:6379",
        "::1",
        "redis://[::1]:6379/0",
        "redis://host:6379/0;redis://other:6380/1",
        "redis+socket:///run/redis.sock?virtual_host=2",
        "sentinel://a:26379;sentinel://b:26379",
        "amqp://me@host:5672/vhost",
        "amqp://host//?heartbeat=10",
        "mongodb://h1:27017,h2:27018/db?authSource=admin&authMechanism=SCRAM-SHA-256",
        "rediss://host/0?ssl_cert_reqs=required&ssl_ca_certs=/etc/ca.pem",
        "cache+memcached://127.0.0.1:11211;127.0.0.2:11211/",
        "mindtrace_jobs.results.memory:MemoryBackend+memory://local/default",
        "file:///var/results",
    ],
)
def test_a_url_without_a_secret_is_shown_as_it_is(url: str) -> None:
    assert without_password(url) == url


@given(st.text() | st.text(alphabet="ab1:/@;?#&=%+[] .,-").map("redis://".__add__))
def test_no_text_is_too_strange_to_be_shown(text: str) -> None:
    assert isinstance(without_password(text), str)
    assert isinstance(Redactor(text).redact(text), str)


@pytest.mark.parametrize("part", ["/pwd=", ";x://", "@:", "?a=@", "a", "&password=", "%3Bpwd%3D", ";a:1", "x.y:z+"])
@pytest.mark.timeout(60)  # it takes a tenth of a second, or, if it were quadratic, hours
def test_a_long_text_takes_no_long_time(part: str) -> None:
    text = "redis://" + part * 100_000
    assert Redactor("redis://:p4ssw0rd@host").redact(text + " p4ssw0rd").endswith(" **")


# --- wherever a secret stands

#: Unescaped, as people write them, around a word to look for.
PASSWORDS = st.builds(
    "{}{}{}".format,
    st.text(alphabet="ab1;/@?#:", max_size=4),
    st.just(SECRET),
    st.text(alphabet="ab1;/@?#:", max_size=4),
)
NAMES = st.sampled_from(
    [
        *(
            "password",
            "passwd",
            "pwd",
            "ssl_password",
            "ssl_key_password",
            "sentinel_password",
            "secret",
            "client_secret",
        ),
        *("token", "access_token", "sas", "sig", "AccountKey", "SharedAccessKey", "aws_secret_access_key", "api_key"),
    ]
).flatmap(lambda name: st.sampled_from([name, name.lower(), name.upper(), name.title()]))
HOSTS = st.sampled_from(["127.0.0.1:1", "localhost", "[::1]:1"])


def places(scheme: str) -> st.SearchStrategy[str]:
    """URLs with the secret in any place where one may stand."""
    return st.one_of(
        st.builds(f"{scheme}://{{}}:{{}}@{{}}/0".format, st.sampled_from(["", "me"]), PASSWORDS, HOSTS),
        st.builds(f"{scheme}://me:{{}}@{{}}/0".format, PASSWORDS.map(lambda one: quote(one, safe="")), HOSTS),
        st.builds(f"{scheme}://{{}}/0?ssl_ca_certs=/ca&{{}}={{}}".format, HOSTS, NAMES, PASSWORDS),
        st.builds(f"{scheme}://u:p@{{}}/0;{scheme}://u:{{}}@{{}}/0".format, HOSTS, PASSWORDS, HOSTS),
        st.builds(f"{scheme}://u:{{}}@{{}}/0;{scheme}://u:p@{{}}/0".format, PASSWORDS, HOSTS, HOSTS),
        st.builds(f"{scheme}://{{}}/0;{scheme}://{{}}/0?{{}}={{}}".format, HOSTS, HOSTS, NAMES, PASSWORDS),
    )


def unknown_host(host: Any, *_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not known")


def shown_by(use: Callable[[], Any]) -> str:
    """All that is shown of a client that cannot connect, errors with their causes included."""
    shown = []
    with patch.object(socket, "getaddrinfo", unknown_host):
        try:
            shown.append(repr(client := use()))
            with Orchestrator(client) as orchestrator:
                shown.append(repr(orchestrator))
                try:
                    orchestrator.queue_status("q")
                except Exception as error:
                    shown += traceback.format_exception(error)
                if client.result_backend:
                    try:
                        orchestrator.job_status("id")
                    except Exception as error:
                        shown += traceback.format_exception(error)
        except Exception as error:  # redis-py's TypeError for an option that it does not know is one
            shown += traceback.format_exception(error)
    return "".join(shown)


@given(places("redis") | places("rediss") | places("amqp") | places("sentinel"))
@example(f"redis://host/0?x=1@{SECRET}@y")
def test_no_secret_of_a_url_is_shown(url: str) -> None:
    assert SECRET not in without_password(url)
    assert SECRET not in Redactor(url).redact(f"cannot use {url!r}, {url.lower()}, {unquote(url)}")


@given(places("redis") | places("rediss"))
def test_no_secret_is_shown_by_a_redis_client_that_cannot_connect(url: str) -> None:
    assert SECRET.lower() not in shown_by(lambda: RedisClient.from_url(url)).lower()


@given(places("amqp"))
def test_no_secret_is_shown_by_a_rabbitmq_client_that_cannot_connect(url: str) -> None:
    assert SECRET.lower() not in shown_by(lambda: RabbitMQClient.from_url(url)).lower()


@given(
    places("redis")
    | places("mongodb")
    | places("db+mysql")
    | places("elasticsearch")
    | st.builds("azureblockblob://DefaultEndpointsProtocol=https;AccountName=n;AccountKey={}=;A=b".format, PASSWORDS)
)
def test_no_secret_of_a_result_backend_that_cannot_work_is_shown(url: str) -> None:
    client = RabbitMQClient("127.0.0.1", 1, result_backend=url)
    with patch.object(socket, "getaddrinfo", unknown_host), Orchestrator(client) as orchestrator:
        with pytest.raises(JobsError) as caught:
            orchestrator.job_status("id")
        assert SECRET.lower() not in "".join(traceback.format_exception(caught.value)).lower()


@given(PASSWORDS)
@pytest.mark.parametrize("client", [RedisClient, RabbitMQClient])
def test_no_secret_in_a_host_is_shown(client: Any, password: str) -> None:
    for host in (
        f"me:{password}@host",
        f":{password}@host",
        f"redis://me:{password}@host",
        f"host/0?password={password}",
    ):
        assert SECRET not in shown_by(lambda host=host: client(host))  # type: ignore[misc]


@pytest.mark.parametrize(
    "make",
    [
        lambda: RedisClient("127.0.0.1", 1, password=SECRET + "/;@"),
        lambda: RedisClient("127.0.0.1", f"1?password={SECRET}"),  # type: ignore[arg-type]
        lambda: RedisClient("127.0.0.1", 1, ssl={"ssl_password": SECRET, "ssl_keyfile": "/none"}),
        lambda: RedisClient("127.0.0.1", 1, transport_options={"sentinel_kwargs": {"password": SECRET}}),
        lambda: RabbitMQClient("127.0.0.1", 1, "guest", SECRET),
        lambda: RabbitMQClient("127.0.0.1", 1, transport_options={"login_token": SECRET}),
        lambda: LocalClient(f"me:{SECRET}@host"),
        lambda: Orchestrator.from_url(f"redis:/:{SECRET}@host"),
        lambda: Orchestrator.from_url(f"redis://:{SECRET}@host".encode()),  # type: ignore[arg-type]
        lambda: Orchestrator.from_celery(Celery(broker=f"sqs://me:{SECRET}@")),
        lambda: Orchestrator.from_celery(Celery(broker=f"{SECRET}@host:1")),
    ],
)
def test_no_secret_of_an_argument_is_shown(make: Callable[[], Any]) -> None:
    assert SECRET not in shown_by(make)


def test_no_secret_of_a_celery_apps_result_backend_is_shown() -> None:
    app = Celery(broker="memory://", backend=f"mongodb://127.0.0.1:1/db?password={SECRET}", set_as_current=False)
    with Orchestrator.from_celery(app) as orchestrator, pytest.raises(JobsError) as caught:
        orchestrator.job_status("id")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("position", [0, 1, 2])
def test_no_secret_is_shown_by_a_celery_apps_connection_whichever_broker_it_uses(position: int) -> None:
    app = Celery(broker=f"redis://:p@127.0.0.1:1/0;redis://:1;me:{SECRET}@127.0.0.1:2/0", set_as_current=False)
    install(app)
    connection = app.connection_for_write()
    connection.switch(connection.alt[position])
    assert SECRET not in repr(connection)
    assert SECRET not in connection.as_uri()


def test_a_celery_apps_connection_says_its_password_to_who_asks_for_it() -> None:
    app = Celery(broker=f"redis://:{SECRET}@127.0.0.1:1/0", set_as_current=False)
    install(app)
    assert SECRET in app.connection_for_write().as_uri(include_password=True)


# --- errors of drivers


def driver_error(text: str, cause: BaseException | None = None) -> Exception:
    class DriverError(Exception):
        __module__ = "redis.exceptions"

    error = DriverError(text)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        driver_error(f"cannot use redis://:{SECRET}%2F@host"),
        driver_error(f"cannot use {SECRET + '/'!r}"),
        driver_error("no", ValueError(f"port {SECRET.lower()}")),
        driver_error("no", ExceptionGroup("some", [OSError(1, f"option {SECRET}")])),
        ValueError(f"port is {SECRET}"),
    ],
)
def test_a_drivers_error_that_quotes_a_secret_is_named_without_it(error: Exception) -> None:
    redactor = Redactor(f"redis://:{SECRET}%2F@host/0")
    with pytest.raises(JobsError) as caught, ErrorMapping(redactor, tuple):
        raise error
    assert SECRET.lower() not in "".join(traceback.format_exception(caught.value)).lower()
    assert isinstance(caught.value.__cause__, RedactedError)
    assert type(error).__name__ in str(caught.value.__cause__)


def test_a_drivers_error_without_a_secret_is_the_cause_itself() -> None:
    error = driver_error("no such command")
    with pytest.raises(JobsError) as caught, ErrorMapping(Redactor(f"redis://:{SECRET}@host/0"), tuple):
        raise error
    assert caught.value.__cause__ is error


def test_a_common_word_as_password_leaves_other_words_alone() -> None:
    redactor = Redactor("amqp://guest:guest@host;amqp://a:1@host")
    assert redactor.redact("user 'guest' at 127.0.0.1:1 has amqp://guest:guest@host") == (
        "user 'guest' at 127.0.0.1:1 has amqp://guest:**@host"
    )


def test_a_port_that_is_none_in_a_second_url_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Orchestrator.from_url(f"amqp://127.0.0.1:1/;amqp://u:{SECRET}/x@127.0.0.1:2/")
    assert SECRET not in "".join(traceback.format_exception(caught.value))
