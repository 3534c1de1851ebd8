"""How every stage of both packages is a command: flags into a frozen dataclass, one JSON line out, exit 0, 1, 2, 130
or 143.

DVC unpacks a section of params.yaml into flags (`--window_s 10.0 --no-keep_audio`); the stage's dataclass names, types
and documents them, and no code reads params.yaml.  Loads no torch: what must be set before torch is loaded is set here.
What all commands owe a user stands in the files beside this one: signals (`_signals`), a machine that has no room or
forbids to write (`_environment`), a terminal that strangers' text must not steer (`_printing`).
"""

import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from adapt.command import _environment, _signals
from adapt.command._environment import reserve as reserve
from adapt.command._printing import log_to_stderr
from adapt.command._printing import printable as printable
from adapt.command._printing import printable_json as printable_json
from adapt.command._ranges import check_numbers as check_numbers
from adapt.command._ranges import number as number
from adapt.command._signals import begin as begin
from adapt.command._signals import hook as hook
from adapt.command._signals import prompting as prompting
from adapt.errors import EarshotError, StoppedError

Options = TypeVar("Options")
INTERRUPTED = 130  # what a shell says of a program ended by Ctrl-C
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
NEVER_BYTES, PAD_BYTES = 2**31 - 1, 2**26  # the most that mallopt takes; what the heap grows by at a time


def main(
    options: type[Options] | Callable[[Sequence[str]], type[Options]],
    run: Callable[[Options], Mapping[str, object] | None],
    *,
    prog: str,
    args: Sequence[str] | None = None,
    patient: bool = False,
) -> None:
    """Parse `args` into `options`, call `run`, and print its counts as one JSON line on stdout.

    `options` is a dataclass, or a function that chooses one by the command line; `args` is the command line where it
    is None.  A command that prints for itself returns None, and raises SystemExit where it has an exit code of its own.
    Exits with 0 when `run` returns; 1 with a one-line reason for an `EarshotError`, for a number outside the range that
    its option declares (`number`), and for an error of the machine (no room, no right to write); 2 for wrong flags
    (tyro); 130 after Ctrl-C; 143 after SIGTERM.

    A program that called `begin` first ends within a second of either signal, but where it is `patient` with Ctrl-C:
    then `run` handles KeyboardInterrupt, and may raise StoppedError.
    """
    log_to_stderr()
    words = sys.argv[1:] if args is None else args
    if (ending := _signals.ending()) is not None:
        ending.prog, ending.is_running, ending.is_patient = prog, True, patient
    try:
        kind = options if isinstance(options, type) else options(words)
        given: Options = _parsed(kind, prog, words)
        check_numbers(given)
        counts = run(given)
        if counts is not None:
            print(printable_json(json.dumps(dict(counts), sort_keys=True)))
        sys.stdout.flush()
    except SystemExit:
        raise
    except BaseException as error:
        _fail(prog, error)


def _parsed(kind: type[Options], prog: str, words: Sequence[str]) -> Options:
    import tyro  # here: it takes a tenth of a second, and Ctrl-C should be taken over before that

    return tyro.cli(kind, prog=f"python -m {prog}", args=words, config=(tyro.conf.OmitArgPrefixes,))


def _fail(prog: str, error: BaseException) -> NoReturn:
    """Say in one line why the command ends, and end it; raises `error` again where it is a fault of the code."""
    ending = _signals.ending()
    is_stopped = isinstance(error, KeyboardInterrupt) or (ending is not None and ending.received is not None)
    if isinstance(error, EarshotError) and (not is_stopped or isinstance(error, StoppedError)):
        print(f"{prog}: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        raise SystemExit(INTERRUPTED if isinstance(error, StoppedError) else 1) from None
    if is_stopped:
        if ending is not None:
            ending.exit()
        print(f"{prog}: interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    if (line := _environment.line(error)) is None:
        raise error
    print(f"{prog}: {printable(line)}", file=sys.stderr)
    raise SystemExit(1) from None


@contextmanager
def until_the_reader_leaves() -> Iterator[None]:
    """End the block, and no more, where whoever reads stdout has closed the pipe.

    `head` does so when it has had enough: nothing failed.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # or Python would complain while it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def be_passive() -> None:
    """Let idle threads sleep instead of spin, unless the user has set OMP_WAIT_POLICY.

    For a program's first lines, before torch is imported.

    On two cores shared with other work that was worth about 2 x.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for good; for programs, not for libraries.

    Returns False, and changes nothing, without glibc.

    A step on a clip makes and frees hundreds of tensors of tens of megabytes.  glibc maps each from the system and
    unmaps it again, and the system clears every page on the way: measured on two cores, a fifth of a clip's CPU time.
    Kept, the memory is that of the largest clip.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, NEVER_BYTES), mallopt(M_TOP_PAD, PAD_BYTES)])
