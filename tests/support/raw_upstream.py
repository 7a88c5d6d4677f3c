"""A scripted upstream on raw TCP: reads a whole request, then plays bytes, pauses and ends."""

import asyncio
import socket
import struct
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvloop

from server.config.schema import Timeouts
from server.protocols import Protocol
from server.protocols.content import has_content
from server.upstream.connection import Origin

FIN, RST, HANG = "FIN", "RST", "HANG"  # close; reset; wait until the peer closes
DEAF = "DEAF"  # a script that begins with this reads nothing before it plays
EARLY = "EARLY"  # a script that begins with this reads the head only
QUICK = Timeouts(connect_s=2, first_byte_s=5, idle_s=5, write_s=5)


@dataclass
class RawUpstream:
    """What a scripted upstream saw."""

    port: int = 0
    tls: bool = False
    host: str = "127.0.0.1"
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)  # (head, body)
    accepted: int = 0
    open: int = 0
    sent: int = 0  # bytes that its scripts have handed to the system
    server_names: list[str | None] = field(default_factory=list)

    @property
    def origin(self):
        return Origin(self.host, self.port, self.tls)

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"


@asynccontextmanager
async def upstream(*scripts, tls=None, host="127.0.0.1"):
    """Serve on loopback: each request gets the next script, the last one again and again.

    A script is bytes, or a list of bytes (sent), numbers (a pause in seconds), events (waited
    for), coroutine functions (awaited with the stream reader) and FIN, RST or HANG. After a
    script without an end the connection waits for another request.
    """
    seen = RawUpstream(tls=tls is not None, host=host)
    tasks, left = set(), [[each] if isinstance(each, bytes) else each for each in scripts]

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        seen.accepted += 1
        seen.open += 1
        try:
            while left and await _exchange(seen, left, reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            seen.open -= 1
            writer.transport.abort()

    # Small windows, so that a few hundred kilobytes fill them.
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(serve, sock=sock, ssl=tls, limit=32768)
    seen.port = sock.getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _exchange(seen, left, reader, writer):
    """Play one script; tell whether the connection goes on."""
    script = left[0]
    head = body = b""
    if script[0] is not DEAF:
        head = await reader.readuntil(b"\r\n\r\n")
        if script[0] is not EARLY:
            body = await reader.readexactly(_length(head))
        seen.requests.append((head, body))
    script = left.pop(0) if len(left) > 1 else left[0]
    for step in script:
        match step:
            case bytes():
                writer.write(step)
                await writer.drain()
                seen.sent += len(step)
            case int() | float():
                await asyncio.sleep(step)
            case asyncio.Event():
                await step.wait()
            case "FIN":
                writer.close()
                return False
            case "RST":
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return False
            case "HANG":
                while await reader.read(65536):
                    pass
                return False
            case str():
                pass
            case _:
                await step(reader)
    return True


def _length(head):
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


class Recorder:
    """A sink that keeps what it is told."""

    def __init__(self):
        self.head, self.data, self.ends = None, bytearray(), []
        self.over = asyncio.get_running_loop().create_future()

    def on_head(self, head):
        assert self.head is None
        self.head = head

    def on_data(self, data):
        assert not self.ends
        self.data += data

    def on_end(self, error):
        self.ends.append(error)
        self.over.set_result(error)


def request(body=b"{}", path="/v1/messages"):
    """Give the head and the body of a request."""
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode(), body


def sized(body, *headers, status="200 OK"):
    """Write an answer with a content-length."""
    lines = "".join(f"{each}\r\n" for each in headers)
    return f"HTTP/1.1 {status}\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def begun(stream):
    """Give the beginning of a recorded stream, up to its first content."""
    protocol = Protocol.ANTHROPIC if stream.startswith(b"event:") else Protocol.OPENAI
    pieces = stream.split(b"\n\n")
    count = next(n for n in range(1, len(pieces)) if has_content(_of(pieces[:n]), protocol))
    return _of(pieces[:count])


def _of(pieces):
    return b"".join(piece + b"\n\n" for piece in pieces)


def chunked(*pieces, end=b"0\r\n\r\n"):
    """Write chunks; `end` is the last one."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
BIT = (  # a little content: before any, a stream's frame waits in the gateway
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
    b'{"type":"text_delta","text":"hi"}}\n\n'
)
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def until(condition, seconds=5.0):
    """Poll until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.002)


def run(coroutine):
    """Run on the event loop that the gateway serves with."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)
