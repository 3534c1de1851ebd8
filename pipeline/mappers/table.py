"""The mapper `table`: a label map as a CSV that a person wrote, or exported and corrected in an editor or a
spreadsheet.

The first line says where the table comes from and, for an export, the hash of its rows: rows that differ from it make
the map "edited", a table without a hash is "hand".  The hash is over the rows' meaning, so saving unchanged in a
spreadsheet edits nothing.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from adapt.errors import MapperError
from adapt.tables.files import sha256_text, write_text
from pipeline.labels.lists import LabelLists
from pipeline.mappers import LabelMap, Pair, Settings

MAPS = Path("data/maps")
COLUMNS = ("audio_label", "label", "weight", "necessary", "reason")
OF_CLASSES = ("head_label", *COLUMNS[1:])  # of a class map: the model's class in the sound's place
MARK = "# earshot "
FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "'",
    "\t",
)  # a spreadsheet would run a cell that starts so, and replies are untrusted text


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    audio_label: str  # the sound, or the model's class
    label: str
    weight: float
    necessary: bool
    reason: str


def default_path(dataset: str) -> Path:
    """Where the table of a data set lies unless --table says otherwise."""
    return MAPS / f"{dataset}.csv"


def dataset_of(path: Path) -> str:
    """The data set that an export names in its first line, "" where there is no such line.  Raises MapperError."""
    return str(_head(path, next(_lines(path), (1, []))[1]).get("dataset", ""))


def rows_sha256(rows: Iterable[Row]) -> str:
    """Hash of what the rows say, in any order."""
    return sha256_text(sorted((r.audio_label, r.label, r.weight, r.necessary, r.reason) for r in rows))


def write(path: Path, dataset: str, rows: Sequence[Row], source: str, columns: Sequence[str] = COLUMNS) -> None:
    """Export a map.  Raises MapperError where `path` holds a table that a person wrote or changed."""
    if path.exists() and _read(path)[1] in ("hand", "edited"):
        raise MapperError(f"{path} holds what a person wrote: choose another --out, or move it away")
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = {"dataset": dataset, "source": source, "sha256": rows_sha256(rows)}
    writer.writerow([MARK + json.dumps(head, ensure_ascii=False)])
    writer.writerow(columns)
    for row in rows:
        writer.writerow(
            [
                _guarded(row.audio_label),
                _guarded(row.label),
                repr(row.weight),
                str(row.necessary).lower(),
                _guarded(row.reason),
            ]
        )
    write_text(path, text.getvalue())


def _guarded(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def map_labels(lists: LabelLists, settings: Settings) -> LabelMap:
    """Read the table at `settings.table`, or data/maps/<dataset>.csv.

    Raises MapperError naming file, line and value where a row names an unknown sound or class, or breaks a column's
    rule.
    """
    path = Path(settings.table) if settings.table else default_path(lists.dataset)
    if not path.exists():
        raise MapperError(
            f"{path} is missing: write it, or export one: `python -m pipeline.map_labels export "
            f"{lists.dataset.removesuffix('.classes') if lists.head else lists.dataset}"
            f"{f' --classes {lists.head}' if lists.head else ''} --out {path}`"
        )
    rows, kind, source = _read(path)
    audio_ids = {sound: i for i, sound in enumerate(lists.sounds)}
    label_ids = {label: i for i, label in enumerate(lists.classes)}
    pairs: dict[tuple[int, int], Pair] = {}
    for line, row in rows.items():
        if row.audio_label not in audio_ids:
            what = f"class {row.audio_label!r} of the model" if lists.head else f"sound {row.audio_label!r}"
            listed = lists.head or "data/labels/audioset.csv"
            raise MapperError(f"{path}, line {line}: unknown {what}: write it as in {listed}")
        if row.label not in label_ids:
            raise MapperError(f"{path}, line {line}: unknown class {row.label!r}: choose one of {list(label_ids)}")
        pair = Pair(audio_ids[row.audio_label], label_ids[row.label], row.weight, row.necessary, row.reason)
        if pairs.setdefault((pair.audio_id, pair.label_id), pair) is not pair:
            raise MapperError(f"{path}, line {line}: {row.audio_label!r} -> {row.label!r} stands twice: delete one")
    provenance = {"table": str(path), "table_sha256": rows_sha256(rows.values())}
    if kind == "edited":
        provenance["edited_from"] = source
    return LabelMap(list(pairs.values()), source if kind == "exported" else kind, provenance)


def _read(path: Path) -> tuple[dict[int, Row], str, str]:
    """({line: row}, "exported", "edited" or "hand", the source of an export)."""
    lines = _lines(path)
    number, first = next(lines, (1, []))
    head = _head(path, first)
    if head:
        number, first = next(lines, (2, []))
    while first and not first[-1]:
        first.pop()
    if tuple(cell.strip().lower() for cell in first) not in (COLUMNS, OF_CLASSES):
        raise MapperError(f"{path}, line {number}: columns {first}: write {','.join(COLUMNS)}, separated by commas")
    rows = {number: _row(path, number, cells) for number, cells in lines if any(cells)}
    source = str(head.get("source", ""))
    if "sha256" not in head:
        return rows, "hand", source
    return rows, "exported" if head["sha256"] == rows_sha256(rows.values()) else "edited", source


def _head(path: Path, first: list[str]) -> dict[str, object]:
    """What an export's first line says, {} where it is none."""
    if not first or not first[0].startswith(MARK):
        return {}
    try:
        return dict(json.loads(first[0].removeprefix(MARK)))
    except (ValueError, TypeError) as error:
        raise MapperError(
            f"{path}, line 1: {first[0]!r} is not what an export writes ({error}): restore or delete the line"
        ) from None


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines with their numbers, each cell trimmed."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            number = 1
            for cells in reader:
                yield number, [cell.strip() for cell in cells]
                number = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise MapperError(f"{path}: not UTF-8 ({error}): save it as CSV UTF-8") from None
    except csv.Error as error:
        raise MapperError(f"{path}, line {reader.line_num}: not CSV ({error}): check the quotes") from None


def _row(path: Path, line: int, cells: list[str]) -> Row:
    where = f"{path}, line {line}"
    if len(cells) < len(COLUMNS) or any(cells[len(COLUMNS) :]):
        raise MapperError(
            f"{where}: {len(cells)} cells {cells}, not {len(COLUMNS)}: put quotes around text with commas"
        )
    sound, label, weight, necessary, reason = (cell.removeprefix("'") for cell in cells[: len(COLUMNS)])
    try:
        number = float(weight)
    except ValueError:
        raise MapperError(
            f"{where}: weight {weight!r} is not a number with a point: write one above 0, up to 1"
        ) from None
    if not 0 < number <= 1:
        raise MapperError(f"{where}: weight {weight!r} is not above 0 and up to 1: change it or delete the line")
    if necessary.lower() not in ("true", "false"):
        raise MapperError(f"{where}: necessary {necessary!r}: write true or false")
    if not reason:
        raise MapperError(f"{where}: the reason is empty: say why {sound!r} points to {label!r}")
    return Row(sound, label, number, necessary.lower() == "true", reason)
