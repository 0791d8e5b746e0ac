"""What is wrong with a checkpoint: damaged, or out of reach for now; and damaged ones set aside."""

import contextlib
import errno
import os

from tada_jax.system import quiet
from tada_jax.system.errors import UserError


class Damaged(Exception):
    """A checkpoint that cannot be read, or does not hold what was saved; says why in a line."""


# What stands in the way of reading today and may be gone tomorrow; the checkpoint may be whole.
# Tensorstore hands on the system's words, or a code of gRPC, after the path.
_PASSING_ERRORS = (
    errno.EMFILE,
    errno.ENFILE,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ENOMEM,
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.ENODEV,
    errno.ENXIO,
    errno.ENOTCONN,
    errno.ESHUTDOWN,
    errno.ETIMEDOUT,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOSPC,
    errno.EDQUOT,
)
_PASSING_WORDS = (
    *map(os.strerror, _PASSING_ERRORS),
    "RESOURCE_EXHAUSTED",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "ABORTED",
    "CANCELLED",
)


def _may_pass(error):
    """Whether an exception, or one that led to it, says nothing about the files themselves."""
    while error is not None:
        number = getattr(error, "errno", None)
        if isinstance(error, MemoryError | PermissionError | TimeoutError | ConnectionError):
            return True
        if number in _PASSING_ERRORS or any(word in str(error) for word in _PASSING_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _in_a_line(error, most=200):
    """What an exception goes back to, in words; of a long message the beginning and the end."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def move_aside(folder, workdir=None):
    """Moves a folder of a run to `<workdir>/damaged/`, keeping what lies there; returns where."""
    target = (workdir or folder.parent) / "damaged" / folder.name
    target.parent.mkdir(exist_ok=True)
    while target.exists():
        target = target.with_name(target.name + "-again")
    folder.rename(target)
    return target


@contextlib.contextmanager
def reading():
    """Turns whatever orbax and tensorstore raise for damaged files into `Damaged`.

    Raises:
      UserError: instead, where something other than the files is at fault.
    """
    try:
        yield
    except BaseException as e:
        quiet.orbax.failed()
        if not isinstance(e, Exception):
            raise
        reason = _in_a_line(e)
        if _may_pass(e):
            raise UserError(
                f"a checkpoint cannot be read now ({reason}): make it readable, and the same "
                "command continues; or move it away, to go on from the one before"
            ) from e
        raise Damaged(reason) from e


@contextlib.contextmanager
def writing():
    """Turns whatever tensorstore raises about a full or failing disk into an OSError."""
    try:
        yield
    except BaseException as e:
        quiet.orbax.failed()
        if isinstance(e, OSError) or not isinstance(e, Exception):
            raise
        reason = " ".join(str(e).split())
        raise OSError(None, reason[:300]) from e
