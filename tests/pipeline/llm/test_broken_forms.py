"""Recordings, addresses and lists of another form than they should have: one line each."""

from pathlib import Path

import pytest

from adapt.errors import MapperError, TaggerError
from pipeline import taggers
from pipeline.labels import lists
from pipeline.llm._endpoint import Endpoint
from pipeline.llm.recording import Journal


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{\n", "line 1: not JSON"),
        (b"[1]\n", "line 1: not a JSON object"),
        (b'{"kind": "reply"}\n', "line 1: lacks"),
        (b'{"kind": "caf\xe9"}\n', "not UTF-8"),
    ],
)
def test_a_broken_unfinished_recording_is_one_line_and_stays_and_is_free_again(
    content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("data/replies/mine.asking.jsonl")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for _ in range(2):  # the second time it is not "another run is recording there"
        with pytest.raises(MapperError, match=said), Journal("mine"):
            pass
    assert path.read_bytes() == content


@pytest.mark.parametrize("url", ["http://[::1", "ftp://host/v1", "host/v1", "http://", "http://host:port/v1", ""])
def test_an_address_that_is_none_is_one_line(url: str) -> None:
    with pytest.raises(MapperError, match=r"^--base_url .* is no (http\(s\) )?address"):
        Endpoint(url, "model", {}, 1.0, 0)


@pytest.mark.parametrize(
    "content", [b"", b"index,mid,display_name\n", b"index,mid,display_name\n0,/m/1,caf\xe9\n", b"a\n1\n"]
)
def test_a_list_of_sounds_that_is_none_is_one_line(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sounds.csv").write_bytes(content)
    monkeypatch.setattr(lists, "SOUNDS", tmp_path / "sounds.csv")
    with pytest.raises(MapperError, match=r"sounds\.csv"):
        lists.label_lists("mine", ["dog"])
    with pytest.raises(TaggerError, match=r"sounds\.csv: not a list of index, mid, display_name"):
        taggers.read_labels(tmp_path / "sounds.csv")
