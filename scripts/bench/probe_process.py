"""A probe in a process of its own, freshly started: nothing of this one or of another probe is measured with it.

    ProbeProcess ── "another" ──> child: next(probe) ── sample ──> ProbeProcess
                 ── pipe closed ─> child: the probe is closed, cleans up, and the child ends

The child takes no Ctrl-C: it is for the command, which then closes the pipe. A command that is killed closes it too.
"""

import contextlib
import logging
import multiprocessing
import signal
import sys
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any, Final

from scripts.bench.benchmark import Probe, Sample

CLOSE_S: Final = 3.0
"""How long a probe may take to end by itself: enough between two samples, hardly within one."""

CLEAN_UP_S: Final = 60.0
"""How long one that was then told to end may take to clean up: a PostgreSQL to stop, processes to end."""

ANOTHER: Final = "another"


class ProbeFailed(Exception):
    """Raised when a probe raised, or its process died; the text says which and why."""


class ProbeProcess:
    """A probe that gives samples when asked. Its process starts with the first, and anew if the probe has ended.

    Args:
        name: Names it in errors.
        probe: What runs there.
        arguments: Its arguments; they are pickled.
    """

    def __init__(self, name: str, probe: Probe, arguments: Mapping[str, Any]) -> None:
        self._name = name
        self._probe = probe
        self._arguments = arguments
        self._process: multiprocessing.process.BaseProcess | None = None

    def sample(self) -> Sample:
        """Return the probe's next sample.

        Raises:
            ProbeFailed: If there is none.
        """
        if self._process is None:
            self._start()
        try:
            self._connection.send(ANOTHER)
            answer: Sample | str | None = self._connection.recv()
        except (EOFError, OSError) as error:
            raise ProbeFailed(f"{self._name}: its process died") from error
        if isinstance(answer, str):
            raise ProbeFailed(f"{self._name} failed:\n{answer}")
        if answer is None:
            self.close()
            return self.sample()
        return answer

    def _start(self) -> None:
        # Not forked: a copy of this process would have its memory, its threads and its garbage.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = context.Process(target=serve_samples, args=(self._probe, self._arguments, theirs))
        # Ctrl-C reaches all processes of a terminal. While it is held back here, the child is born with it held back.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
            self._process = process
            theirs.close()  # or the pipe would not break when the child dies
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is None:
            return
        process, self._process = self._process, None
        self._connection.close()
        process.join(CLOSE_S)
        if process.is_alive():
            process.terminate()
            process.join(CLEAN_UP_S)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def serve_samples(probe: Probe, arguments: Mapping[str, Any], connection: Connection) -> None:
    """Run a probe in this process: send a sample for each request, None after the last, or the text of an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, end_probe)
    logging.basicConfig(level=logging.WARNING)
    samples = probe(**arguments)
    try:
        while connection.recv() == ANOTHER:
            connection.send(next(samples, None))
    except (EOFError, BrokenPipeError):
        pass  # the command wants no more, or is gone
    except Exception:  # noqa: BLE001 (it is raised again in the command)
        with contextlib.suppress(BrokenPipeError):  # or not, if it is gone: Ctrl-C ends the servers of probes, too
            connection.send(traceback.format_exc())
    finally:
        samples.close()


def end_probe(*_: object) -> None:
    """Have the probe clean up, and this process end, unless it is at that already: then it must not be kept from it.

    What cleans up does so while an exception is on its way: GeneratorExit, one of the probe's own, or ours.
    """
    if sys.exception() is None:
        sys.exit(1)
