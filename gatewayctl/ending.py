"""How a command line ends: what was raised, told on stderr, becomes the exit code."""

import errno
from collections.abc import Callable

from gatewayctl.exits import CommandError, ExitStatus, as_failure
from gatewayctl.session import Session
from server.errors import ConfigError, GatewayError


def status_of(session: Session, run: Callable[[], int | None]) -> int:
    """Run `run` and give the exit code; what it could not do is told. Bugs are left to crash."""
    try:
        status = int(run() or ExitStatus.OK)
        session.out.flush()
    except (GatewayError, ConfigError) as err:
        failure = as_failure(err)
    except CommandError as err:
        failure = err
    except KeyboardInterrupt:
        failure = CommandError("Interrupted.", status=ExitStatus.INTERRUPTED, code="interrupted")
    except OSError as err:  # a file that cannot be read or written
        place = "" if err.filename is None else f"{err.filename}: "
        hint = _WAYS_OUT.get(err.errno or 0)
        failure = CommandError(f"{place}{err.strerror or err}", code="io_error", hint=hint)
        session.out.abandon()
    else:
        return status
    session.out.error(str(failure), code=failure.code, hint=failure.hint)
    return failure.status


_WAYS_OUT = {
    errno.EACCES: "Run this as the user who owns it, or in a folder of your own.",
    errno.EROFS: "Choose a folder that can be written, with --config.",
    errno.ENOSPC: "Make room on the disk, and run this again.",
}
