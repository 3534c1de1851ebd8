"""What a language model was asked and what it said: data/replies/<dataset>.jsonl and, while it grows,
<dataset>.asking.jsonl.

A recording starts with its plan (model, settings, form, hashes of prompt and label lists, the questions), then come the
replies as they were given; nobody edits them.  New replies go to the unfinished file, one line each, and the finished
recording is replaced only when every question has its answer: whatever happens to a run, the recording that the stage
replays stays whole.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, BinaryIO

from adapt.errors import MapperError
from adapt.tables import lock
from adapt.tables.files import sha256_text, write_text
from pipeline.labels.lists import SOUNDS, LabelLists
from pipeline.llm.forms import PROMPTS, Prompt, Question, Record, prompt_files

log = logging.getLogger(__name__)
REPLIES = Path("data/replies")
NEEDED = {
    "plan": {"form", "model", "settings", "asked"},
    "reply": {"question_sha256", "audio_id", "attempt", "raw", "finish_reason", "error"},
}


def finished_path(dataset: str) -> Path:
    """The recording that the mapper `llm` replays."""
    return REPLIES / f"{dataset}.jsonl"


def unfinished_path(dataset: str) -> Path:
    """Where replies wait until all are there."""
    return REPLIES / f"{dataset}.asking.jsonl"


def lock_path(dataset: str) -> Path:
    """What the process that asks holds."""
    return REPLIES / f".{dataset}.lock"


def ask_command(lists: LabelLists, model: str = "MODEL", form: str = "score") -> str:
    """The command that brings data/replies/<lists.dataset>.jsonl up to date."""
    about = f"{lists.dataset.removesuffix('.classes')} --classes {lists.head}" if lists.head else lists.dataset
    return f"python -m pipeline.map_labels ask {about} --base_url URL --model {model}" + (
        f" --form {form}" if form != "score" else ""
    )


def read_records(path: Path) -> list[Record]:
    """The lines of a recording.  Raises MapperError for a line that is no JSON object, or lacks what a plan or a reply
    has.
    """
    try:
        return _records(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError as error:
        raise MapperError(f"{path}: not UTF-8 ({error}): restore the file, replies are never edited") from None


def _records(text: str, path: Path) -> list[Record]:
    records = []
    for number, line in enumerate(filter(None, text.split("\n")), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise MapperError(
                f"{path}, line {number}: not JSON ({error}): restore the file, replies are never edited"
            ) from None
        if not isinstance(record, dict):
            raise MapperError(f"{path}, line {number}: not a JSON object: restore the file, replies are never edited")
        if lacking := sorted(NEEDED.get(str(record.get("kind")), {"kind"}) - record.keys()):
            raise MapperError(
                f"{path}, line {number}: lacks {lacking}: restore the file, or move it away and ask again"
            )
        records.append(record)
    return records


def last_plan(records: Sequence[Record]) -> Record:
    """The plan that counts, empty where there is none."""
    return next((record for record in reversed(records) if record.get("kind") == "plan"), {})


def question_sha256(plan: Mapping[str, Any], prompt: Prompt, question: Question) -> str:
    """The key of a reply: it answers this question, asked of the plan's model with its settings, and no other."""
    return sha256_text(plan["model"], plan["settings"], question.messages(prompt), question.schema())


def stale(plan: Mapping[str, Any], lists: LabelLists, prompt: Prompt) -> str | None:
    """What has changed since `plan` was recorded, or None."""
    files = prompt_files(str(plan.get("form")), bool(lists.head))
    today = {
        "sounds_sha256": (lists.head or str(SOUNDS), lists.sounds_sha256),
        "classes_sha256": (f"the class list of {lists.dataset}", lists.classes_sha256),
        "prompt_sha256": (f"{PROMPTS}/{' or '.join(files)}", prompt.sha256),
    }
    return next((what for name, (what, sha256) in today.items() if plan.get(name) != sha256), None)


class Journal:
    """The unfinished recording of a data set, open for one process at a time; a context manager.

    Entering cuts off a line that a kill tore.  Raises BusyError where another process is recording the same data set.
    """

    def __init__(self, dataset: str) -> None:
        self._dataset, self.path, self._finished = dataset, unfinished_path(dataset), finished_path(dataset)
        self.n_appended = 0
        self._lock = Lock()
        self._replies: dict[tuple[str, int], Record] = {}

    def __enter__(self) -> "Journal":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._held = lock.holding(lock_path(self._dataset), str(self._finished))
        self._held.__enter__()
        try:
            self._open()
        except BaseException:
            self._held.__exit__(None, None, None)
            raise
        return self

    def _open(self) -> None:
        self._file: BinaryIO = self.path.open("a+b")
        self._file.seek(0)
        whole = self._file.read().rpartition(b"\n")
        self._file.truncate(len(whole[0]) + len(whole[1]))
        try:
            self._unfinished = _records(whole[0].decode(), self.path)
        except (MapperError, UnicodeDecodeError) as error:
            self._file.close()
            if isinstance(error, MapperError):
                raise
            raise MapperError(f"{self.path}: not UTF-8 ({error}): move it away and ask again") from None
        finished = read_records(self._finished) if self._finished.exists() else []
        self.plans = [
            last_plan(self._unfinished),
            last_plan(finished),
        ]  # the newer one first; empty where there is none
        self._remember([*finished, *self._unfinished])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.n_appended and not any(record.get("kind") == "reply" for record in self._unfinished):
            self.path.unlink(missing_ok=True)  # nothing was answered: leave no file that says so
        self._file.close()
        self._held.__exit__(kind, error, trace)

    def _remember(self, records: Iterable[Record]) -> None:
        self._replies |= {(r["question_sha256"], r["attempt"]): r for r in records if r.get("kind") == "reply"}

    def attempts(self, question_sha256: str) -> list[Record]:
        """The replies to one question so far, first attempt first."""
        with self._lock:
            found = [reply for (key, _), reply in self._replies.items() if key == question_sha256]
        return sorted(found, key=lambda reply: int(reply["attempt"]))

    def answered(self, question_sha256: str) -> bool:
        """Whether one of them is valid."""
        return any(reply["error"] is None for reply in self.attempts(question_sha256))

    def begin(self, plan: Record) -> None:
        """Say what is being asked now, unless the file says so already."""
        if last_plan(self._unfinished) != plan:
            self._write(plan)
            self._unfinished.append(plan)

    def append(self, reply: Record) -> None:
        """Add one reply to the file's end, at once."""
        with self._lock:
            self._write(reply)
            self._remember([reply])
            self.n_appended += 1

    def _write(self, record: Record) -> None:
        self._file.write(_line(record).encode())
        self._file.flush()

    def finish(self, plan: Record, wanted: Sequence[str]) -> None:
        """Replace the recording: the plan, then in sound order the replies to `wanted`; drop what nobody asks any
        more.
        """
        places = {key: place for place, key in enumerate(wanted)}
        kept = [reply for (key, _), reply in self._replies.items() if key in places]
        if dropped := len(self._replies) - len(kept):
            log.info("%s: dropped %d replies to questions that are not asked any more", self._finished, dropped)
        kept.sort(key=lambda reply: (reply["audio_id"], places[reply["question_sha256"]], reply["attempt"]))
        write_text(self._finished, "".join(_line(record) for record in [plan, *kept]))
        self.path.unlink()


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
