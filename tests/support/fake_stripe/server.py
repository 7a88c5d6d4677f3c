"""The fake on its socket: who may call, idempotency keys, faults, and the record of calls."""

import itertools
import json
import socket
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import stripe
from support.fake_stripe import forms, params, sdk
from support.fake_stripe.api import Api, route
from support.fake_stripe.faults import ApiError, Faults

KEYS_KEPT_S = 86_400


@dataclass
class Call:
    """One request as it came in; `status` is None until it is answered, and if it never is."""

    method: str
    path: str
    params: dict
    idempotency_key: str | None
    headers: dict = field(repr=False)
    status: int | None = None

    @property
    def name(self):
        return f"{self.method} {self.path}"


@dataclass
class Saved:
    """What an idempotency key was used for; `answer` is None while that is under way."""

    request: tuple
    at: int
    answer: tuple | None = None


class FakeStripe(Faults, Api):
    """A Stripe to call, to act upon and to look into."""

    def __init__(self, *, key, **more):
        super().__init__(**more)
        self.key = key
        self.url = ""
        self.calls, self.meant = [], []
        self.idempotency = {}
        self.stopping = threading.Event()
        self.set_price("team", 2000)
        self.set_price("pro", 5000)

    def check_calls(self):
        """Fail with what is wrong, by the SDK's own types, in any call that was made."""
        sent = [(call.method, call.path, call.params, True) for call in self.calls]
        meant = [(*each, False) for each in self.meant]
        wrong = [line for each in sent + meant for line in _wrong_in(*each)]
        assert not wrong, "\n".join(dict.fromkeys(wrong))

    def respond(self, call):
        """Give status, headers and body for `call`, or None to break the connection."""
        with self.lock:
            self.calls.append(call)
            fault = self.next_fault(call.name)
        try:
            self._admit(call)
            reply = self._meet(fault, call) if fault else self._once(call)
        except ApiError as err:
            reply = err.status, {}, err.body
        call.status = reply[0] if reply else None
        return reply

    def _admit(self, call):
        if call.headers.get("Authorization") != f"Bearer {self.key}":
            raise ApiError(401, "Invalid API Key provided.")
        if call.headers.get("Stripe-Version") != stripe.api_version:
            raise ApiError(400, f"Invalid Stripe API version: not {stripe.api_version}")
        if len(call.idempotency_key or "") > 255:
            raise ApiError(400, "The idempotency key is too long.", kind="idempotency_error")

    def _meet(self, fault, call):
        """Answer a call that meets `fault`."""
        if fault.is_refusal:
            return fault.reply
        answer = self._once(call, fault)
        return fault.reply if fault.after else answer

    def _once(self, call, fault=None):
        """Do what a call asks, unless its idempotency key says that it is done or under way.

        What breaks the rules before anything was done leaves the key free.
        """
        replay = self._claim(call)
        if replay:
            return replay
        answer = None
        try:
            if not self.stopping.wait(fault.hang_s if fault else 0):
                answer = self._work(call, fault)
        finally:
            self._keep(call, answer)
        return answer

    def _work(self, call, fault):
        """Give the answer to save; a failure may be saved in place of work, or on top of it."""
        if fault and fault.saved and not fault.after:
            return fault.reply
        with self.lock:
            done = 200, {}, self.answer(call.method, call.path, call.params)
        return fault.reply if fault and fault.saved else done

    def _claim(self, call):
        """Take the idempotency key of `call`, or give the answer that was saved under it."""
        request = (call.method, call.path, call.params)
        with self.lock:
            saved = self.idempotency.get(call.idempotency_key)
            if saved is None or self.now - saved.at > KEYS_KEPT_S:
                if call.idempotency_key:
                    self.idempotency[call.idempotency_key] = Saved(request, self.now)
                return None
        if saved.request != request:
            message = "Keys for idempotent requests can only be used with the same parameters."
            raise ApiError(400, message, kind="idempotency_error")
        if saved.answer is None:
            message = "There is another request in progress with this idempotency key."
            code = "idempotency_key_in_use"
            raise ApiError(409, message, kind="idempotency_error", code=code)
        status, headers, body = saved.answer
        return status, headers | {"Idempotent-Replayed": "true"}, body

    def _keep(self, call, answer):
        with self.lock:
            if answer is None:
                self.idempotency.pop(call.idempotency_key, None)
            elif call.idempotency_key:
                self.idempotency[call.idempotency_key].answer = answer


class _Handler(BaseHTTPRequestHandler):
    """One connection, kept alive."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave in one packet

    def _handle(self):
        address = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        form = forms.decode(body) if self.command == "POST" else forms.decode(address.query)
        key = self.headers.get("Idempotency-Key")
        call = Call(self.command, address.path, form, key, dict(self.headers.items()))
        reply = self.server.fake.respond(call)
        if reply is None:
            self.close_connection = True
        else:
            self._send(*reply, key)

    do_GET = do_POST = do_DELETE = _handle  # noqa: N815 (the names that the class looks for)

    def _send(self, status, headers, body, key):
        text = json.dumps(body).encode()
        self.send_response(status)
        headers = headers | {"Content-Type": "application/json", "Content-Length": len(text)}
        headers["Request-Id"] = f"req_fake{next(self.server.numbers):06d}"
        headers["Stripe-Version"] = stripe.api_version
        if key:
            headers["Idempotency-Key"] = key
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Say nothing: the calls are on record."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def __init__(self, fake):
        self.fake, self.numbers, self.open = fake, itertools.count(1), set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request, client_address):
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        """Let a client hang up without a word; raise what is an error of the fake."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def stop(self):
        self.fake.stopping.set()
        self.shutdown()
        for each in list(self.open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.server_close()


def _wrong_in(method, path, asked, on_the_wire):
    try:
        _, typed, _ = route(method, path)
    except ApiError as err:
        return [str(err)]
    found = params.violations(asked, typed, wire=on_the_wire)
    return [f"{method} {path}: {line}" for line in found]


@contextmanager
def fake_stripe(*, key="sk_fake", now=None):
    """Serve a fake on a free port of loopback, until the block ends."""
    fake = FakeStripe(key=key, now=now)
    server = _Server(fake)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
    thread.start()
    try:
        with sdk.watched(fake.url, fake.meant):
            yield fake
    finally:
        server.stop()
        thread.join()
