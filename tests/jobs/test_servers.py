"""The test servers do what the tests that use them rely on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import kombu
import pytest
import redis
from amqp.exceptions import AccessRefused, ChannelError, NotAllowed

from tests.jobs.servers import RabbitMQServer, RedisServer, ServerError, TcpProxy, free_port, wait_until
from tests.jobs.servers.rabbitmq import RABBITMQ_URL_VARIABLE
from tests.jobs.servers.redis import REDIS_URL_VARIABLE
from tests.jobs.servers.spaces import RABBITMQ_API_VARIABLE, NamedRedis, rabbitmq_spaces, redis_spaces

ROOT = Path(__file__).parents[2]


def put(url: str, body: str) -> None:
    with kombu.Connection(url) as connection:
        queue = connection.SimpleQueue("jobs")
        queue.put(body)
        queue.close()


def size(url: str) -> int:
    with kombu.Connection(url) as connection:
        try:
            return int(connection.default_channel.queue_declare("jobs", passive=True).message_count)
        except ChannelError:
            return 0  # Redis keeps no queue that is empty


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=5, retry=None)


def answers(url: str) -> bool:
    with client(url) as connection:
        return bool(connection.ping())


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


def test_a_message_goes_through_plain_kombu_on_each_backend(backend_url: str) -> None:
    with kombu.Connection(backend_url) as connection:
        queue = connection.SimpleQueue("jobs")
        queue.put({"image": "a.png"})
        assert queue.get(timeout=30).payload == {"image": "a.png"}
        queue.close()


@pytest.mark.parametrize("backend", ["redis", "rabbitmq"])
@pytest.mark.parametrize("round_", [1, 2])
def test_each_test_finds_its_broker_empty(backend: str, round_: int, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{backend}_url")
    assert size(url) == 0
    put(url, "left behind")
    assert size(url) == 1


class TestRedis:
    def test_data_survives_kill_9_with_an_append_only_file(self, own_redis_server: RedisServer) -> None:
        port = own_redis_server.port
        put(own_redis_server.url(), "a")
        own_redis_server.kill()
        assert not own_redis_server.running
        own_redis_server.start()
        assert own_redis_server.port == port
        assert size(own_redis_server.url()) == 1

    def test_data_survives_a_restart_with_an_append_only_file(self, own_redis_server: RedisServer) -> None:
        put(own_redis_server.url(), "a")
        own_redis_server.restart()
        assert size(own_redis_server.url()) == 1

    def test_data_is_gone_after_kill_9_without_one(self) -> None:
        with RedisServer() as server:
            put(server.url(), "a")
            server.kill()
            server.start()
            assert size(server.url()) == 0

    def test_a_frozen_server_answers_when_it_thaws(self, own_redis_server: RedisServer) -> None:
        with client(own_redis_server.url()) as connection:
            connection.ping()
            own_redis_server.freeze()
            with pytest.raises(redis.TimeoutError):
                connection.ping()
            own_redis_server.thaw()
            assert connection.ping()

    def test_a_password_is_required_where_one_is_set(self) -> None:
        with RedisServer(password="p@ss/word") as server:
            assert answers(server.url())
            with pytest.raises(redis.AuthenticationError):
                answers(f"redis://127.0.0.1:{server.port}/0")

    def test_a_server_that_does_not_start_shows_its_log(self) -> None:
        server = RedisServer(arguments=["--no-such-option", "x"])
        with pytest.raises(ServerError, match="no-such-option"), server:
            pass
        assert not server.folder.exists()

    def test_closing_in_a_forked_child_leaves_the_parents_server_alone(self, own_redis_server: RedisServer) -> None:
        child = os.fork()
        if child == 0:
            try:
                own_redis_server.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert answers(own_redis_server.url())


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitMQServer]:
    """A node that may be restarted, with the management API."""
    port = free_port()
    config = f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}\n"
    with (
        RabbitMQServer(plugins=["rabbitmq_management"], config=config) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(RABBITMQ_API_VARIABLE, f"http://127.0.0.1:{port}")
        yield server


class TestRabbitMQ:
    def test_virtual_hosts_do_not_see_each_others_queues(
        self, rabbitmq_url: str, rabbitmq_server: RabbitMQServer
    ) -> None:
        other = rabbitmq_server.url(rabbitmq_server.add_vhost())
        put(rabbitmq_url, "a")
        assert size(rabbitmq_url) == 1
        assert size(other) == 0

    def test_a_deleted_virtual_host_is_gone(self, rabbitmq_server: RabbitMQServer) -> None:
        vhost = rabbitmq_server.add_vhost()
        put(rabbitmq_server.url(vhost), "a")
        rabbitmq_server.delete_vhost(vhost)
        with pytest.raises(NotAllowed):
            put(rabbitmq_server.url(vhost), "a")

    def test_a_user_gets_in_with_the_right_password_and_where_allowed(self, rabbitmq_server: RabbitMQServer) -> None:
        vhost = rabbitmq_server.add_vhost()
        rabbitmq_server.add_user("guest-of-one", "p@ss/word", vhost=vhost)
        put(rabbitmq_server.url(vhost, user="guest-of-one", password="p@ss/word"), "a")
        with pytest.raises(AccessRefused):
            put(rabbitmq_server.url(vhost, user="guest-of-one", password="wrong"), "a")
        with pytest.raises(NotAllowed):
            put(rabbitmq_server.url("/", user="guest-of-one", password="p@ss/word"), "a")

    def test_a_failing_command_shows_its_output(self, rabbitmq_server: RabbitMQServer) -> None:
        with pytest.raises(ServerError, match="no-such-vhost"):
            rabbitmq_server.delete_vhost("no-such-vhost")

    def test_durable_messages_survive_a_stop_of_the_broker_and_kill_9(self, node: RabbitMQServer) -> None:
        url = node.url(node.add_vhost())
        with kombu.Connection(url, transport_options={"confirm_publish": True}) as connection:
            queue = connection.SimpleQueue("jobs")
            queue.put("a")
            node.stop_app()
            assert refuses(node.port)
            node.start_app()
        assert size(url) == 1
        node.kill()
        node.start()
        assert size(url) == 1

    def test_a_named_server_gives_virtual_hosts_and_takes_them_back(
        self, node: RabbitMQServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(RABBITMQ_URL_VARIABLE, node.url())
        spaces = rabbitmq_spaces()
        first, second = spaces.new(), spaces.new()
        put(first, "a")
        assert size(first) == 1
        assert size(second) == 0
        spaces.done(first)
        spaces.close()
        left = node.rabbitmqctl("list_vhosts")
        assert urlsplit(first).path.lstrip("/") not in left
        assert urlsplit(second).path.lstrip("/") not in left

    def test_a_named_server_without_management_api_is_refused(
        self, rabbitmq_server: RabbitMQServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(RABBITMQ_URL_VARIABLE, rabbitmq_server.url())
        monkeypatch.setenv(RABBITMQ_API_VARIABLE, f"http://127.0.0.1:{free_port()}")
        with pytest.raises(ServerError, match="rabbitmq_management") as caught:
            rabbitmq_spaces()
        assert rabbitmq_server.password not in str(caught.value)


class TestNamedRedis:
    def test_an_empty_database_is_used_and_left_empty(
        self, own_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(REDIS_URL_VARIABLE, own_redis_server.url(3))
        spaces = redis_spaces()
        url = spaces.new()
        assert url == own_redis_server.url(3)
        put(url, "a")
        spaces.done(url)
        with client(url) as connection:
            assert connection.dbsize() == 0

    def test_a_database_that_holds_something_is_refused_and_not_touched(self, own_redis_server: RedisServer) -> None:
        put(own_redis_server.url(), "precious")
        with pytest.raises(ServerError, match="Name an empty one"):
            NamedRedis(own_redis_server.url())
        assert size(own_redis_server.url()) == 1


class TestProxy:
    @pytest.fixture
    def proxy(self, redis_url: str, proxy_to: Callable[[str], TcpProxy]) -> TcpProxy:
        return proxy_to(redis_url)

    @pytest.fixture
    def through(self, proxy: TcpProxy, redis_url: str) -> Iterator[redis.Redis]:
        with client(proxy.url(redis_url)) as connection:
            yield connection

    def test_what_goes_through_comes_out_byte_for_byte(self, through: redis.Redis) -> None:
        data = os.urandom(5_000_000)
        through.set("key", data)
        assert through.get("key") == data

    @pytest.mark.parametrize("reset", [False, True])
    def test_a_cut_closes_connections_and_takes_new_ones(
        self, proxy: TcpProxy, through: redis.Redis, reset: bool
    ) -> None:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as link:
            proxy.wait_for_connections(1)
            assert proxy.cut(reset=reset) == 1
            assert proxy.connections == 0
            if reset:
                with pytest.raises(ConnectionResetError):
                    link.recv(100)
            else:
                assert link.recv(100) == b""
        assert through.ping()

    def test_refused_means_nobody_listens_until_allowed(self, proxy: TcpProxy, through: redis.Redis) -> None:
        through.ping()
        proxy.refuse()
        assert through.ping()  # the open connection goes on
        assert refuses(proxy.port)
        proxy.allow()
        assert not refuses(proxy.port)

    def test_a_frozen_connection_stays_open_and_silent_until_it_thaws(self, proxy: TcpProxy, redis_url: str) -> None:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.3) as open_one:
            open_one.sendall(b"PING\r\n")
            assert open_one.recv(100) == b"+PONG\r\n"
            proxy.freeze()
            open_one.sendall(b"PING\r\n")
            with pytest.raises(TimeoutError):
                open_one.recv(100)
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.3) as new_one:
                new_one.sendall(b"PING\r\n")
                with pytest.raises(TimeoutError):
                    new_one.recv(100)
            proxy.thaw()
            open_one.settimeout(30)
            assert open_one.recv(100) == b"+PONG\r\n"

    def test_frozen_replies_let_the_work_be_done_and_its_reply_be_lost(self, proxy: TcpProxy, redis_url: str) -> None:
        with client(redis_url) as direct, socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as link:
            proxy.freeze(requests=False)
            database = urlsplit(redis_url).path.lstrip("/")
            link.sendall(f"SELECT {database}\r\nSET done yes\r\n".encode())
            wait_until(lambda: direct.get("done") == b"yes", "the command was carried out")
            proxy.cut()
            assert link.recv(100) == b""

    def test_a_dead_server_ends_the_connections_through_the_proxy(self, own_redis_server: RedisServer) -> None:
        with (
            TcpProxy(*own_redis_server.address) as proxy,
            socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as link,
        ):
            link.sendall(b"PING\r\n")
            assert link.recv(100) == b"+PONG\r\n"
            own_redis_server.kill()
            assert link.recv(100) == b""


class TestRun:
    """The test run as a whole: what it does when it cannot start, and what it leaves behind."""

    def test_missing_programs_fail_the_run_before_the_first_test(self) -> None:
        test = "tests/jobs/test_servers.py::test_a_message_goes_through_plain_kombu_on_each_backend[redis]"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test]
        done = subprocess.run(
            command, cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == pytest.ExitCode.USAGE_ERROR
        for program in ("redis-server", "rabbitmq-server"):
            assert f"{program} is not on PATH" in done.stderr
            assert f"apt-get install {program}" in done.stderr
        assert "passed" not in done.stdout
        assert "skipped" not in done.stdout

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda it: it.name)
    def test_servers_die_with_a_test_run_that_is_killed(self, number: signal.Signals) -> None:
        script = """
            import signal
            from tests.jobs.servers import RedisServer
            server = RedisServer().start()
            print(server.port, server.folder, flush=True)
            signal.pause()
        """
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        ) as run:
            assert run.stdout is not None
            port, folder = run.stdout.readline().split()
            assert answers(f"redis://127.0.0.1:{port}")
            os.killpg(run.pid, number)
        wait_until(lambda: not Path(folder).exists(), "the server's folder is removed")
        wait_until(lambda: refuses(int(port)), "nobody listens any more")
