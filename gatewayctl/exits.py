"""How a command ends: exit codes, and the failures that choose them."""

from enum import IntEnum

from server.errors import (
    ConfigError,
    Conflict,
    GatewayError,
    InsufficientBalance,
    InvalidApiKey,
    InvalidRequest,
    KeyNotAllowed,
    NotFound,
    Unavailable,
    UpstreamError,
)


class ExitStatus(IntEnum):
    """The exit codes that scripts may rely on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CHECK_FAILED = 3
    REFUSED = 4
    NOT_FOUND = 5
    CONFLICT = 6
    UNAVAILABLE = 7
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot do what it was asked; `hint` says how to mend that.

    `code` is what scripts match under `--json`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: ExitStatus = ExitStatus.FAILED,
        code: str = "failed",
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.hint = hint


def as_failure(err: GatewayError | ConfigError) -> CommandError:
    """Tell how a command ends for a failure of the domain."""
    if isinstance(err, ConfigError):
        return CommandError(str(err), status=ExitStatus.USAGE, code="config_error")
    status = next((code for kind, code in _STATUSES if isinstance(err, kind)), ExitStatus.FAILED)
    return CommandError(str(err), status=status, code=err.code)


_STATUSES = (
    (InvalidRequest, ExitStatus.USAGE),
    (InvalidApiKey, ExitStatus.REFUSED),
    (InsufficientBalance, ExitStatus.REFUSED),
    (KeyNotAllowed, ExitStatus.REFUSED),
    (NotFound, ExitStatus.NOT_FOUND),
    (Conflict, ExitStatus.CONFLICT),
    (Unavailable, ExitStatus.UNAVAILABLE),
    (UpstreamError, ExitStatus.UNAVAILABLE),
)
