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
    after: bool = False
    saved: bool = False

    @property
    def is_refusal(self):
        """Tell whether the request is turned away before anything looks at it."""
        return not (self.after or self.saved or self.hang_s)

    @property
    def reply(self):
        """Give status, headers and body, or None for a dropped connection."""
        if self.status is None:
            return None
        kind = "api_error" if self.status >= 500 else "invalid_request_error"
        return self.status, self.headers, ApiError(0, self.message, kind=kind, code=self.code).body


class Faults:
    """The script, as methods of the fake; `on` is a pattern of "METHOD /path"."""

    def __init__(self, **more):
        super().__init__(**more)
        self.faults = []

    def fail(self, status, *, times=1, on="*", should_retry=None, saved=None, **more):
        """Answer with an error, in place of the work or, with `after=True`, on top of it.

        A 500 is saved under the idempotency key, so that to try again with that key is to get
        it again; `saved=False` makes it pass. Source: docs.stripe.com/api/idempotent_requests.
        """
        headers = {} if should_retry is None else {"Stripe-Should-Retry": str(should_retry).lower()}
        saved = status == 500 if saved is None else saved
        self.faults.append(Fault(on, times, status, headers, saved=saved, **more))

    def drop(self, *, times=1, on="*"):
        """Close the connection without an answer, the work undone."""
        self.faults.append(Fault(on, times))

    def lose_reply(self, *, times=1, on="*"):
        """Do the work, then close the connection without an answer."""
        self.faults.append(Fault(on, times, after=True))

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
