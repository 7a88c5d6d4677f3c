"""The built-in demo upstream: a provider of both protocols that needs no key and no network.

It plays a small deterministic model, a scripted agent that creates files with the client's own
tools, and failures by name. It runs inside the gateway's event loop or alone, and never touches
the database.

It is not a Sanic app. Its faults need every byte on the wire (a cut inside a chunk, a wrong
length, a reset), Sanic keeps a registry of apps, signals and log handlers per process that the
gateway already uses, and a listener on asyncio and httptools starts in about a millisecond.
"""

from server.upstream.demo.faults import FAULTS
from server.upstream.demo.server import DemoOptions, DemoServer, start

__all__ = ["FAULTS", "DemoOptions", "DemoServer", "start"]
