"""A collector of OpenTelemetry's on loopback: takes spans by OTLP over HTTP, or refuses them."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Collected:
    """What was sent to a collector; `status` is what it answers, with the `echo`ed header."""

    url: str = ""
    status: int = 200
    echo: str = ""
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def resources(self) -> list[Any]:
        return [
            each
            for body in self.bodies
            for each in ExportTraceServiceRequest.FromString(body).resource_spans
        ]

    @property
    def spans(self) -> list[Any]:
        """The spans, in OTLP's own shape."""
        return [
            span for each in self.resources for scope in each.scope_spans for span in scope.spans
        ]


@contextmanager
def collector():
    """Collect what is posted while the block runs."""
    collected = Collected()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            collected.paths.append(self.path)
            collected.headers.append({name.lower(): text for name, text in self.headers.items()})
            if collected.status == 200:
                collected.bodies.append(body)
            echoed = self.headers.get(collected.echo)
            self.send_response(collected.status, echoed and f"Not welcome: {echoed}")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collected.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield collected
        finally:
            server.shutdown()
            thread.join()


def attributes(span: Any) -> dict[str, Any]:
    """Give the attributes of an OTLP span or resource as plain values."""
    return {each.key: _plain(each.value) for each in span.attributes}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(each) for each in value.array_value.values]
    return getattr(value, kind)
