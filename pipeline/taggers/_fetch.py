"""Download a file of a Zenodo record: resumed where it was cut, checked against its md5, renamed only when it is
whole.
"""

import hashlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from adapt.errors import TaggerError
from adapt.tables.files import sha256_file
from pipeline.workers.progress import progress

ZENODO = "https://zenodo.org"
TIMEOUT_S = 30.0  # without a byte
BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class Published:
    """A file of a record."""

    record: str
    file: str
    md5: str  # "": the record is asked

    @property
    def url(self) -> str:
        """Where its bytes are."""
        return f"{ZENODO}/records/{self.record}/files/{urllib.parse.quote(self.file)}?download=1"


def download(published: Published, path: Path) -> str:
    """Bring `published` to `path` and return its sha256; a file there with the right md5 is left alone.

    What came of a cut download stays beside it as .part, and the next call goes on from there.  Raises TaggerError
    where there is no connection, it was cut, or the bytes are not the published ones (those are not kept).
    """
    try:
        md5 = published.md5 or _md5_of_record(published)
        if path.is_file() and _md5(path) == md5:
            return sha256_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        _receive(published.url, part)
    except urllib.error.HTTPError as error:
        raise TaggerError(
            f"{published.url} answered {error.code} {error.reason}: {_by_hand(published, path)}"
        ) from error
    except urllib.error.URLError as error:
        raise TaggerError(f"no connection to {ZENODO} ({error.reason}): {_by_hand(published, path)}") from error
    except (OSError, http.client.HTTPException) as error:
        raise TaggerError(
            f"the download of {published.file} was cut ({error}): run the same command again, it goes on from there"
        ) from error
    found = _md5(part)
    if found != md5:
        part.unlink()
        raise TaggerError(
            f"what came as {published.file} has md5 {found}, but {md5} is published; it was not kept: run the same "
            "command again"
        )
    part.replace(path)
    return sha256_file(path)


def _receive(url: str, part: Path) -> None:
    """Append what is missing of `url` to `part`; from the start where the server does not send from the middle."""
    n_there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={n_there}-"} if n_there else {})  # noqa: S310  the scheme is a constant
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:  # all of it is there, or more: the md5 will tell
            return
        raise
    with response:
        n_there = n_there if response.status == http.client.PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        total = n_there + int(length) if length else None
        with part.open("ab" if n_there else "wb") as file, progress(part.stem, total or 0, "B") as bar:
            bar.update(n_there)
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
            n_there = file.tell()
    if total is not None and n_there < total:
        raise ConnectionError(f"{n_there} of {total} bytes came")


def _md5_of_record(published: Published) -> str:
    """The md5 that the record itself states.  Raises TaggerError where it states none: unchecked bytes are not used."""
    url = f"{ZENODO}/api/records/{published.record}"
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310
        try:
            record = json.load(response)
            sums = {entry["key"]: str(entry["checksum"]) for entry in record["files"]}
        except (ValueError, KeyError, TypeError) as error:
            raise TaggerError(
                f"{url} is not the record that it was: download {published.file} by hand and check it"
            ) from error
    kind, _, md5 = sums.get(published.file, "").partition(":")
    if kind != "md5" or not md5:
        raise TaggerError(f"{url} states no md5 of {published.file}: download it by hand and check it")
    return md5


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _by_hand(published: Published, path: Path) -> str:
    return f"download {published.file} of Zenodo record {published.record} where there is one, and copy it to {path}"
