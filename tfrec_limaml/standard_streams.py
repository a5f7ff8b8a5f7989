"""Standard input, output and error of a command: closed ones, and readers that go away."""

from __future__ import annotations

import os
import select
import sys


def open_closed_streams() -> None:
    """Opens standard streams that the caller has closed (``2>&-``) on the null device.

    Otherwise a data file would get the file descriptor of one of them, and libraries would write
    their logs into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            file = open(os.devnull, "w" if number else "r")  # noqa: SIM115 - for the whole process
            if file.fileno() != number:
                os.dup2(file.fileno(), number)
            setattr(sys, name, file)


def drop_output() -> None:
    """Sends what is still buffered for standard output to the null device."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def reader_has_gone() -> bool:
    """Whether standard output is broken, and not another pipe or socket of the command."""
    poll = select.poll()
    poll.register(sys.stdout, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))
