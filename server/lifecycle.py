"""Start a gateway, keep it running, and take it down without losing a request."""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import uvloop
from sanic import Sanic

from server import clock, logs
from server.app import create_app, response_timeout_s
from server.billing.orphans import settle_some
from server.billing.prices import in_force as prices_in_force
from server.billing.stripe import account as stripe_account
from server.billing.stripe import worker as stripe_worker
from server.calls import Rules
from server.config.load import Settings
from server.config.schema import Config
from server.counts import counted
from server.draining import drain
from server.errors import ConfigError
from server.gateway import Gateway
from server.listening import PortTaken, bind, exposure, tls_context, url_of
from server.noting import Notes
from server.observing.collector import Collector
from server.observing.watch import Watch, watching
from server.presets.load import Presets, load_presets
from server.providers import endpoints_of, require_keys
from server.reloading import Files, Reloader
from server.routes.connection import Connection
from server.routes.services import Deadlines, Services
from server.store import instances
from server.store.db import Store
from server.store.lock import ServeLock
from server.store.migrate import migrate
from server.tracing import collector_of
from server.upstream.client import UpstreamClient
from server.upstream.pool import Pool

if TYPE_CHECKING:
    from server.upstream import demo

__all__ = ["PortTaken", "Running", "handle_signals", "running", "serve"]

RELOAD_EVERY_S = 1.0
OPEN_MAX = 10_240
COLLECT_AFTER = 10_000  # new objects; by default 700

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that serves: where it is, and its parts."""

    url: str
    services: Services
    demo: "demo.DemoServer | None"
    warnings: tuple[str, ...]
    connections: Collection[object]


def serve(
    settings: Settings,
    *,
    host: str | None = None,
    port: int | None = None,
    ready: Callable[[Running], None] | None = None,
    draining: Callable[[int], None] | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM, then drain; a second signal ends it at once.

    One that comes before `ready` lets the start come to its end, and then stops it.
    SIGHUP has it read config and presets again.

    `ready` is called once, when requests are answered, and `draining` at the first signal, with
    the number of requests that are still under way. Gives the exit status.

    Raises:
        ConfigError: the configuration cannot be served; nothing was started.
        StoreError: the database cannot be used, or another process serves it.
        PortTaken: the address is in use.
    """
    return asyncio.Runner(loop_factory=uvloop.new_event_loop).run(
        _serve(settings, host, port, ready, draining)
    )


async def _serve(
    settings: Settings,
    host: str | None,
    port: int | None,
    ready: Callable[[Running], None] | None,
    draining: Callable[[int], None] | None,
) -> int:
    stop, reload = asyncio.Event(), asyncio.Event()
    handle_signals(stop, reload=reload)
    async with running(settings, host=host, port=port, reload=reload) as gateway:
        _calm_collector()
        if ready is not None and not stop.is_set():
            ready(gateway)
        await stop.wait()
        if draining is not None:
            draining(len(gateway.services.gateway.pumps))
    return 0


def handle_signals(stop: asyncio.Event, *, reload: asyncio.Event | None = None) -> None:
    """Set `stop` at the first SIGINT or SIGTERM; leave at once at the second.

    SIGHUP sets `reload`. Without one, a terminal that closes sets `stop` by it, unless `nohup`
    said to ignore that.
    """

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)  # every acknowledged request is committed: nothing to clean up
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    if reload is not None:
        loop.add_signal_handler(signal.SIGHUP, reload.set)
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # No second one is counted: the shell and the system may each send theirs.
        loop.add_signal_handler(signal.SIGHUP, stop.set)


@asynccontextmanager
async def running(
    settings: Settings,
    *,
    host: str | None = None,
    port: int | None = None,
    environ: Mapping[str, str] = os.environ,
    demo_options: "demo.DemoOptions | None" = None,
    deadlines: Deadlines | None = None,
    reload: asyncio.Event | None = None,
    reload_every_s: float = RELOAD_EVERY_S,
    reconcile_every_s: float = stripe_worker.RECONCILE_EVERY_S,
) -> AsyncIterator[Running]:
    """Run a gateway inside the block: ready when it begins, drained when it ends.

    Files that changed are looked for every `reload_every_s`; `reload` has them read at once.
    Raises as `serve`.
    """
    tls, files, presets = _read_files(settings, environ)
    collector = collector_of(settings, environ)
    async with AsyncExitStack() as stack:
        sock = await _take_place(stack, settings, host, port)
        watch = await _open_logs(stack, settings, collector)
        demo_server = await _start_demo(stack, settings, demo_options)
        demo_url = None if demo_server is None else demo_server.url
        client = UpstreamClient(endpoints_of(settings, environ, demo_url), Pool())
        store, rules = await _open_store(stack, settings, presets, watch)
        gateway = await _open_gateway(stack, store, client, rules, watch)
        account = await stack.enter_async_context(stripe_account.opened(settings, environ, store))
        services = Services(
            settings, store, gateway, clock.now(), watch, deadlines or Deadlines(), account
        )
        server = await stack.enter_async_context(_listening(services, sock, tls))
        await stack.enter_async_context(stripe_worker.working(account, reconcile_every_s))
        reloader = Reloader(services, files, environ, demo_url, partial(_outlast, server))
        _run_beside(stack, reloader.run(reload_every_s, reload or asyncio.Event()))
        url, warnings = url_of(settings.config.server, sock), _warnings(settings, sock)
        yield Running(url, services, demo_server, warnings, server.connections)


async def _take_place(
    stack: AsyncExitStack, settings: Settings, host: str | None, port: int | None
) -> socket.socket:
    """Take the address and the database: nobody else serves at the one, or from the other."""
    server = settings.config.server
    sock = bind(host or server.host, server.port if port is None else port)
    stack.callback(sock.close)
    # In a thread: the loop must see a second signal while another program locks the file.
    await asyncio.to_thread(migrate, settings.database_path)
    stack.enter_context(ServeLock(settings.database_path))
    return sock


def _read_files(
    settings: Settings, environ: Mapping[str, str]
) -> tuple[ssl.SSLContext | None, Files, Presets]:
    """Read all that the config names; what is wrong is said before anything is touched."""
    require_keys(settings, environ)
    tls = tls_context(settings)
    files = Files(settings)  # taken before they are read: a change meanwhile is seen as one
    presets = load_presets(settings.presets_path)
    Rules.of(settings.config, presets, {})
    return tls, files, presets


@asynccontextmanager
async def _listening(
    services: Services, sock: socket.socket, tls: ssl.SSLContext | None
) -> AsyncIterator[Any]:
    """Answer requests inside the block, which is given Sanic's server with its connections.

    It is left through `drain`, and listens until that is over.
    """
    _raise_file_limit()
    app = create_app(services)
    options: dict[str, Any] = {"start_serving": False}
    if tls is not None:
        # Sanic hears of a client only once they have shaken hands; by default that may take 60 s.
        options["ssl_handshake_timeout"] = services.deadlines.head_s
    server: Any = await app.create_server(
        sock=sock,
        protocol=Connection,
        ssl=tls,
        return_asyncio_server=True,
        asyncio_server_kwargs=options,
        backlog=1024,
    )
    await server.startup()
    await server.before_start()
    await server.start_serving()
    await server.after_start()
    try:
        yield server
    finally:
        app.config.KEEP_ALIVE = False
        await drain(server.connections, services)
        server.close()
        await server.before_stop()
        await server.after_stop()
        Sanic.unregister_app(app)


def _outlast(server: Any, config: Config) -> None:
    """Let answers wait as long as `config` says; never less long, for what runs began before."""
    longest_s = max(server.app.config.RESPONSE_TIMEOUT, response_timeout_s(config))
    server.app.config.RESPONSE_TIMEOUT = longest_s
    for connection in server.connections:
        connection.response_timeout = longest_s


def _calm_collector() -> None:
    """Keep what the start made out of all later collections, and make those rarer.

    An ended request leaves them nothing, and a full one would stop the loop for 5 ms to look at
    50,000 objects that stay anyway.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def _warnings(settings: Settings, sock: socket.socket) -> tuple[str, ...]:
    exposed = exposure(settings.config.server, sock.getsockname()[0])
    warnings = settings.warnings if exposed is None else (*settings.warnings, exposed)
    for warning in warnings:
        _log.warning("%s", warning)
    return warnings


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = file_limit(soft, hard)
    if wanted != soft:
        # A kernel may have a lower limit than it tells (macOS): fewer files are no reason to stop.
        with suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def file_limit(soft: int, hard: int) -> int:
    """Choose how many files may be open at once: every stream takes two."""
    if hard != resource.RLIM_INFINITY or soft == resource.RLIM_INFINITY:
        return hard
    # macOS says "unlimited" and refuses to be taken at its word: setrlimit(2), OPEN_MAX.
    return max(soft, OPEN_MAX)


async def _open_logs(
    stack: AsyncExitStack, settings: Settings, collector: Collector | None
) -> Watch:
    """Open the server's own log, and begin to watch what it serves."""
    key, path = "log.file", settings.log_path
    try:
        stack.callback(logs.close_log, logs.open_log(path, settings.config.log.level))
        key, path = "log.access", settings.access_log_path or path
        watch = watching(settings.access_log_path, collector)
        return await stack.enter_async_context(watch)
    except OSError as exc:
        raise ConfigError(
            f"{path} cannot be written ({exc.strerror})", file=settings.path, key=key
        ) from exc


async def _start_demo(
    stack: AsyncExitStack, settings: Settings, options: "demo.DemoOptions | None"
) -> "demo.DemoServer | None":
    if all(upstream.protocol != "demo" for upstream in settings.config.upstreams.values()):
        return None
    from server.upstream import demo  # 2 MB that a gateway with real providers never needs

    server = await demo.start("127.0.0.1", 0, options=options or demo.DemoOptions())
    stack.push_async_callback(server.close)
    return server


async def _open_store(
    stack: AsyncExitStack, settings: Settings, presets: Presets, watch: Watch
) -> tuple[Store, Rules]:
    """Open the database, and number the prices that are in force from now on."""
    store = Store.open(settings.database_path)
    store.watch_commits(watch.commits.observe)
    stack.push_async_callback(store.close)
    prices = await store.write(prices_in_force, settings.config, clock.now())
    return store, Rules.of(settings.config, presets, prices)


async def _open_gateway(
    stack: AsyncExitStack, store: Store, client: UpstreamClient, rules: Rules, watch: Watch
) -> Gateway:
    """Make the conductor of an instance of its own, which ends once its last row is settled."""
    instance_id = await _begin_instance(store, rules)
    stack.push_async_callback(_end_instance, store, instance_id)
    gateway = Gateway(store, client, rules, instance_id, watch.feed)
    gateway.router.watch_breakers(Notes(gateway.router, store, instance_id).note)
    stack.push_async_callback(_close_upstream, gateway)
    return gateway


async def _begin_instance(store: Store, rules: Rules) -> int:
    """Name this process, and settle what killed ones left open; the serve lock is held."""
    instance_id = await store.write(
        instances.begin, os.getpid(), socket.gethostname(), version("gatewayctl"), clock.now()
    )
    dead = await store.read(instances.dead, instance_id)
    orphans = 0
    while dead and (settled := await store.write(settle_some, dead, rules.weights, clock.now())):
        orphans += settled
    for each in dead:
        await store.write(instances.end, each, clock.now())
    if orphans:
        left = counted(orphans, "request")
        _log.warning("settled %s that a killed process had left open", left)
    return instance_id


async def _close_upstream(gateway: Gateway) -> None:
    await gateway.upstream.close()  # by then it may be a successor of the first


async def _end_instance(store: Store, instance_id: int) -> None:
    await store.write(instances.end, instance_id, clock.now())


def _run_beside(stack: AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    """Do `work` until the stack is left; that it ends before is a bug, and told."""
    task = asyncio.create_task(work)
    task.add_done_callback(_log_bug)
    stack.push_async_callback(_stop_task, task)


def _log_bug(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.critical("config and presets are not looked at any more", exc_info=task.exception())


async def _stop_task(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
