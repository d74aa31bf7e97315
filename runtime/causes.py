"""What an error of the operating system is about: the path it names, or a machine that has run out of something."""

from __future__ import annotations

import errno

_OF_THE_PATH = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""Without EIO, ESTALE and their like: they are about a disk or a server, hit all of it, and may be gone in a minute."""

_REMEDIES = {
    errno.EMFILE: "use fewer --threads, or allow more open files with ulimit -n",
    errno.ENFILE: "end other programs, or allow the machine more open files with sysctl fs.file-max",
    errno.ENOMEM: "use fewer --threads, or end other programs",
}

MORE_PROCESSES = "use fewer --threads, or allow more processes with ulimit -u"
"""How to mend EAGAIN where a process or a thread was to start; elsewhere it means something else."""

NO_THREAD = "can't start new thread"
"""What Python's RuntimeError says where the system gives no thread."""


def about_the_path(error: OSError) -> bool:
    """Whether an error says something about the path itself, and would come again on a sound machine."""
    return error.errno in _OF_THE_PATH


def has_run_out(error: OSError) -> bool:
    """Whether the machine has run out of something that more of it would mend, whatever was being done."""
    return error.errno in _REMEDIES


def remedy(error: OSError, otherwise: str) -> str:
    """Return how to mend an error: how to get more of what has run out, or what helps otherwise.

    Args:
        error: What came.
        otherwise: The advice where nothing of the machine has run out.
    """
    return _REMEDIES.get(error.errno or 0, otherwise)
