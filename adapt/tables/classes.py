"""Names, and lists of class names: what a name may hold, and how a list of classes is read, written and hashed.

A list is UTF-8 text, a class a line in label_id order.  Lines end at "\\n" and nowhere else: `str.splitlines` would
break a line at U+000B, U+0085 or U+2028 too, and shift every label_id that follows.  Both packages read their lists
here, so this module imports nothing of either.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path

UNFIT = {
    "Cc": "a control character",
    "Cs": "a byte that is no UTF-8",
    "Zl": "a line break",
    "Zp": "a line break",
}  # by Unicode's category
BLANKS = " \t"  # around a line of a list that a person wrote: not meant


class ClassesError(ValueError):
    """A list of classes cannot be used: one line that says what, where, and what to do."""


def _is_unfit(character: str) -> bool:
    return unicodedata.category(character) in UNFIT


def _bytes(character: str) -> bytes:
    """As in the file system: Python reads a byte that is no UTF-8 as one of U+DC80 to U+DCFF."""
    return character.encode("utf-8", "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass")


def escaped(name: str) -> str:
    r"""`name` as one line of UTF-8: as it is, or, where it holds what `fault` finds, that as bytes and backslashes
    doubled.

    So `$'caf\xe9.mp4'` in bash finds the file that is written caf\xe9.mp4.
    """
    if not fault(name):
        return name
    return "".join(
        "".join(f"\\x{byte:02x}" for byte in _bytes(c)) if _is_unfit(c) else c.replace("\\", "\\\\") for c in name
    )


def fault(name: str) -> str:
    """Why `name` cannot stand in a table, "" where it can: it holds a control character, a line break, or what is no
    UTF-8.
    """
    if name.isprintable():  # of a million names nearly all
        return ""
    for character in name:
        if _is_unfit(character):
            what = "".join(f"\\x{byte:02x}" for byte in _bytes(character))
            return f"holds {what}, {UNFIT[unicodedata.category(character)]}"
    return ""


def check(names: Sequence[str], where: str) -> None:
    """Raise ClassesError, which names the place `where`, unless each name is one line without blanks around it, and no
    two are the same.

    Names are the same where they look the same: an accented letter can be one character (Unicode's NFC) or two (NFD).
    """
    seen: dict[str, str] = {}
    for i, name in enumerate(names):
        if why := fault(name):
            raise ClassesError(f"{where} has the class '{escaped(name)}', whose name {why}: rename it")
        if not name.strip():
            raise ClassesError(f"{where} has an empty name at label_id {i}: give the class a name")
        if name != name.strip():
            raise ClassesError(
                f"{where} has the class {ascii(name)}, whose name begins or ends with a blank: rename it"
            )
        if (other := seen.setdefault(unicodedata.normalize("NFC", name), name)) != name:
            raise ClassesError(
                f"{where} has the classes {ascii(other)} and {ascii(name)}, one name in two spellings of Unicode: give "
                "both the same"
            )
    if twice := sorted({name for name in names if names.count(name) > 1}) if len(seen) < len(names) else []:
        raise ClassesError(f"{where} names {twice[0]!r} more than once: a class has one line")


def read(path: Path, by_hand: bool = False) -> list[str]:
    r"""The class names of a list in label_id order.  Raises ClassesError where it cannot be read, or `check` finds
    fault with a name.

    A list that `scan` wrote is taken as it is.  In one written `by_hand`, blank lines, blanks around a name, a byte
    order mark and a "\r" before the line's end, as Windows writes it, are not meant.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig" if by_hand else "utf-8")
    except OSError as error:
        raise ClassesError(
            f"{path} cannot be read ({error.strerror}): write the class names there, one a line, in label_id order"
        ) from error
    except UnicodeDecodeError as error:
        raise ClassesError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    names = text.removesuffix("\n").split("\n")
    if by_hand:
        names = [name for name in (line.removesuffix("\r").strip(BLANKS) for line in names) if name]
        if not names:
            raise ClassesError(f"{path} names no class: write the class names there, one a line, in label_id order")
    check(names, str(path))
    return names


def text_of(names: Sequence[str]) -> str:
    """The text of a list, which `read` reads as the same names."""
    return "".join(f"{name}\n" for name in names)


def sha256(names: Sequence[str]) -> str:
    """Hash class names in their order, as files carry it in `earshot.classes_sha256`."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
