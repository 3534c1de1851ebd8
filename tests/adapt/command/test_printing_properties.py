"""Text for a terminal: whatever a stranger wrote, nothing that steers a terminal gets out, and JSON keeps its
meaning.
"""

import json
import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from adapt.command import printable, printable_json

TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # the direction of writing
STEERING = st.sampled_from("\x00\x07\x08\t\n\r\x1b\x7f\x85\x9b\u200e\u200f\u061c\u2028\u2029\u202a\u202e\u2066\u2069")
# What Python has of a file's name: any text, and bytes that are no UTF-8, each as one of U+DC80 to U+DCFF.
BYTES = st.integers(0xDC80, 0xDCFF).map(chr)
STRANGE = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), STEERING, BYTES))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), STRANGE),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(STRANGE, inner, max_size=4)),
    max_leaves=8,
)


def steers(text: str) -> set[str]:
    """The characters of `text` that Unicode's tables call controls, breaks, halves of pairs, or turns."""
    odd = {c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    return odd | {c for c in text if unicodedata.bidirectional(c) in TURNING}


@given(STRANGE)
@example("\x1b]0;title\x07")
@example("a\u202egpj.4pm")
def test_no_text_gets_to_a_terminal_with_a_character_that_steers_it(text: str) -> None:
    assert not steers(printable(text))
    assert steers(printable(text, lines=True)) <= {"\n", "\t"}
    printable(text).encode("utf-8")  # it can be printed


@given(STRANGE)
def test_what_is_printable_stays_as_it_is(text: str) -> None:
    once = printable(text)
    assert printable(once) == once
    assert all(c in once for c in text if c.isalnum())


@given(VALUES, st.sampled_from([None, 2]), st.booleans())
def test_json_for_a_terminal_means_the_same_and_steers_nothing(value: object, indent: int | None, plain: bool) -> None:
    shown = printable_json(json.dumps(value, indent=indent, ensure_ascii=plain))
    assert steers(shown) <= {"\n"}
    assert json.loads(shown) == value
