"""Text for a terminal: what could steer it, or forge a line, is shown instead of sent.

File names, labels, a language model's words and what libraries say of files are strangers' text.
"""

import logging
import re
import sys
import traceback
from types import TracebackType

# Control characters (an escape sequence begins with one of them), the line and paragraph separators, bytes that are no
# UTF-8, and what turns the direction of writing, so that a name could read as another one.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object, *, lines: bool = False) -> str:
    r"""`text` with what is not meant to be seen as \x1b or \u202e; with `lines`, its line ends and tabs stay."""
    kept = "\n\t" if lines else ""
    return UNPRINTABLE.sub(lambda found: found[0] if found[0] in kept else _shown(found[0]), str(text))


def printable_json(text: str) -> str:
    r"""A JSON text, or several, that means the same: inside strings the escapes are JSON's own, \u001b."""
    return UNPRINTABLE.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def _shown(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python reads a byte that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]


class Formatter(logging.Formatter):
    """A record is one line; of a traceback, each line is printable."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """As logging.Formatter says."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: "logging._SysExcInfoType") -> str:  # noqa: N802 - logging's name
        """As logging.Formatter says."""
        return printable(super().formatException(ei), lines=True)


def log_to_stderr() -> None:
    """What is logged goes to stderr, a printable line a record, unless someone has set up logging already."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def show_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As sys.excepthook: a traceback whose lines are printable."""
    sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace)), lines=True))
