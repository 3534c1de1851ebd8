"""What the tests of asking share: a project of their own, and a local chat server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.labels import shortlist
from pipeline.llm import _endpoint as endpoint
from tests import chat as served
from tests.chat import Chat


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shortlist, "shortlist", served.three_of_four)
    monkeypatch.setattr(shortlist, "near_pairs", served.near_all)
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    for name in (endpoint.KEY, *proxies, *map(str.lower, proxies)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(served.make_project(tmp_path))
    return tmp_path


@pytest.fixture
def chat() -> Iterator[Chat]:
    with served.serving() as running:
        yield running
