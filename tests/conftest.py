"""What all tests share: one thread a process, and how many processes."""

import gc
import os
import signal
import typing

import hypothesis
import pytest
import torch

N_PROCESSES = 8  # each loads torch, which takes seconds and half a GB: more would wait for the longest file


def pytest_addoption(parser: pytest.Parser) -> None:
    """Of tests/faults: this is the conftest that pytest reads before it reads the command line."""
    parser.addoption("--faults_seed", default="", help="of what is random in tests/faults, as a failure names it")
    parser.addoption("--faults_minutes", default="", help="that the slow part of tests/faults takes; 2 by default")


def pytest_configure() -> None:
    """Compute on one thread, here and in children: tests run side by side, and threads that wait for each other slow
    both.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under nohup: children would ignore Ctrl-C too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Without a deadline, as machines are shared; nothing is left in the working tree; the same inputs each time in CI.
    fixed = bool(os.environ.get("CI"))
    hypothesis.settings.register_profile("earshot", deadline=None, database=None, derandomize=fixed, print_blob=True)
    hypothesis.settings.load_profile("earshot")


def pytest_unconfigure() -> None:
    """Let go of what would outlive the interpreter, or DuckDB's binding reports its types as leaked below pytest's last
    line.

    torch keeps the module `typing` for good, typing its registry of overloads, and that holds pytest's own functions
    with all they know: every test, and the types of DuckDB in its annotations.  So does what Hypothesis has the garbage
    collector call.
    """
    typing.clear_overloads()
    gc.callbacks[:] = [one for one in gc.callbacks if not one.__module__.startswith("hypothesis.")]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """As many processes as there are cores for us; xdist itself counts physical ones, of which a cloud machine has half
    as many.
    """
    return min(len(os.sched_getaffinity(0)), N_PROCESSES)
