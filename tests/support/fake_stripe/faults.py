"""What goes wrong between a client and Stripe, by script."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase


class ApiError(Exception):
    """An error that Stripe answers, in its own shape."""

    def __init__(self, status, message, *, kind="invalid_request_error", code=None, param=None):
        super().__init__(message)
        self.status = status
        error = {"type": kind, "message": message, "code": code, "param": param}
        self.body = {"error": {name: value for name, value in error.items() if value is not None}}


def no_such(noun, given, *, param=None):
    """Make the error for an id that names nothing: 404 in a path, 400 in a parameter."""
    status = 400 if param else 404
    return ApiError(
        status, f"No such {noun}: '{given}'", code="resource_missing", param=param or "id"
    )


@dataclass
class Fault:
    """The next `left` requests that match `on` do not get the answer that they should.

    Without a `status` the connection is dropped, or with `hang_s` only made to wait. `after`:
    the work is done all the same. `saved`: the idempotency key replays the failure.
    """

    on: str
    left: int
    status: int | None = None
    headers: dict = field(default_factory=dict)
    message: str = "Scripted."
    code: str | None = None
    hang_s: float = 0
    drops: bool = False
    after: bool = False
    saved: bool = False

    @property
    def error(self):
        kind = "api_error" if self.status >= 500 else "invalid_request_error"
        return ApiError(self.status, self.message, kind=kind, code=self.code)


class Faults:
    """The script, as methods of the fake; `on` is a pattern of "METHOD /path"."""

    def __init__(self, **more):
        super().__init__(**more)
        self.faults = []

    def fail(self, status, *, times=1, on="*", should_retry=None, saved=None, **more):
        """Answer with an error; a 500 is saved with its idempotency key, as Stripe does.

        Source: docs.stripe.com/api/idempotent_requests, by way of our notes (2026-11-22).
        """
        headers = {} if should_retry is None else {"Stripe-Should-Retry": str(should_retry).lower()}
        saved = status == 500 if saved is None else saved
        self.faults.append(Fault(on, times, status, headers, saved=saved, **more))

    def drop(self, *, times=1, on="*"):
        """Close the connection without an answer, the work undone."""
        self.faults.append(Fault(on, times, drops=True))

    def lose_reply(self, *, times=1, on="*"):
        """Do the work, then close the connection without an answer."""
        self.faults.append(Fault(on, times, drops=True, after=True))

    def hang(self, seconds, *, times=1, on="*"):
        """Wait, then do the work and answer, if somebody still listens."""
        self.faults.append(Fault(on, times, hang_s=seconds))

    def mend(self):
        """Forget the rest of the script."""
        self.faults.clear()

    def next_fault(self, name):
        """Take the fault that the request `name` meets, if any."""
        for fault in self.faults:
            if fault.left and fnmatchcase(name, fault.on):
                fault.left -= 1
                return fault
        return None
