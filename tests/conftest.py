"""What all tests share: one thread a process, and how many processes."""

import os
import typing

import pytest
import torch

N_PROCESSES = 8  # each loads torch, which takes seconds and half a GB: more would wait for the longest file


def pytest_configure() -> None:
    """Compute on one thread, here and in children: tests run side by side, and threads that wait for each other slow
    both.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def pytest_unconfigure() -> None:
    """Let go of what would outlive the interpreter, or DuckDB's binding reports its types as leaked below pytest's last
    line.

    torch keeps the module `typing` for good, typing its registry of overloads, and that holds pytest's own functions
    with all they know: every test, and the types of DuckDB in its annotations.
    """
    typing.clear_overloads()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """As many processes as there are cores for us; xdist itself counts physical ones, of which a cloud machine has half
    as many.
    """
    return min(len(os.sched_getaffinity(0)), N_PROCESSES)
