"""Ask a language model which classes each sound points to, and record every reply: `python -m pipeline.map_labels ask DATASET`.

A person's act, never a stage's: it costs money or minutes.  Any OpenAI-compatible endpoint serves.  Each reply is appended to
data/replies/<dataset>.jsonl before the next question of that thread goes out, so a killed run goes on where it stopped and asks
nothing twice.  The key comes from OPENAI_API_KEY and is written nowhere.
"""
import json
import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import tyro

from pipeline import cache, shortlist
from pipeline.errors import MapperError
from pipeline.mappers import LabelLists, label_lists, llm
from pipeline.mappers.llm import Prompt, Question, Record

log = logging.getLogger(__name__)
N_NEAR = 2  # sounds before the one asked about that the model is shown
SETTINGS = {"temperature": 0, "seed": 0, "max_tokens": 400}
REFUSES_FORM = {400, 404, 415, 422, 500, 501}  # what endpoints answer to a response_format that they do not know
Candidates = Callable[[Sequence[str], Sequence[str], float, int], list[list[int]]]


@dataclass(frozen=True)
class Options:
    """Ask a language model for the label map of a data set."""

    dataset: tyro.conf.Positional[str]
    base_url: str  # of an OpenAI-compatible endpoint, e.g. http://localhost:8000/v1
    model: str  # the endpoint's name of the model; recorded
    dry_run: bool = False  # print how many questions there are, ask nothing
    max_attempts: int = 3  # per sound, each with the last reply's fault
    concurrency: int = 1  # questions in flight
    timeout_s: float = 120.0  # per request
    floor: float = 0.42  # cosine: sounds with no class this near are not asked
    top_n: int = 5  # candidate classes per sound


def run(options: Options, candidates: Candidates = shortlist.shortlist) -> dict[str, object]:
    """Bring data/replies/<dataset>.jsonl up to date; return counts.

    Raises MapperError where the endpoint fails or a sound got no valid reply in `max_attempts`; what was answered is kept.
    """
    if options.max_attempts < 1 or options.concurrency < 1:
        raise MapperError(f"--max_attempts {options.max_attempts} --concurrency {options.concurrency}: both must be at least 1")
    lists = label_lists(options.dataset, _classes(options.dataset))
    path = llm.REPLIES / f"{options.dataset}.jsonl"
    recorded = llm.read_records(path) if path.exists() else []
    prompt = llm.read_prompt()
    plan = _plan(options, lists, prompt, recorded, candidates)
    questions = llm.questions(plan)
    journal = Journal(path, plan, [r for r in recorded if r.get("kind") == "reply"])
    open_ = [q for q in questions if not journal.answered(llm.question_sha256(plan, prompt, q))]
    counts: dict[str, object] = {"n_sounds": len(lists.sounds), "n_asked": len(questions), "n_answered": len(questions) - len(open_)}
    n_characters = sum(len(m["content"]) for q in open_ for m in llm.messages(prompt, q))
    if options.dry_run:
        return counts | {"n_open": len(open_), "n_prompt_tokens_about": n_characters // 4}
    journal.write()
    _ask_all(options, prompt, open_, journal)
    journal.finish([llm.question_sha256(plan, prompt, q) for q in questions])
    return counts | {"n_answered": len(questions), "n_requests": journal.n_appended}


def _classes(dataset: str) -> list[str]:
    if (cache.folder(dataset) / "labels.txt").exists():
        return cache.read_labels(dataset)
    path = Path("data/labels") / f"{dataset}.txt"
    if not path.exists():
        raise MapperError(f"{cache.folder(dataset) / 'labels.txt'} and {path} are missing: run `dvc repro scan` or write the class list")
    return path.read_text(encoding="utf-8").splitlines()


def _plan(options: Options, lists: LabelLists, prompt: Prompt, recorded: list[Record], candidates: Candidates) -> Record:
    """The recorded plan where it still asks the same, so that another machine's rounding cannot change it; else a new one."""
    settings = {"method": shortlist.METHOD, "reach": shortlist.REACH, "decay": shortlist.DECAY}
    settings |= {"floor": options.floor, "top_n": options.top_n}
    old = recorded[0] if recorded and recorded[0].get("kind") == "plan" else {}
    same = old.get("shortlist") == settings and old.get("model") == options.model and old.get("settings") == SETTINGS
    if same and llm.stale(old, lists, prompt) is None:
        return old
    found = candidates(lists.sounds, [llm.shown(label) for label in lists.classes], options.floor, options.top_n)
    asked = [
        {"audio_id": i, "sound": sound, "near": list(lists.sounds[max(0, i - N_NEAR) : i]), "candidates": _shuffled(sound, lists, found[i])}
        for i, sound in enumerate(lists.sounds)
        if found[i]
    ]
    return {
        "kind": "plan",
        "dataset": lists.dataset,
        "model": options.model,
        "settings": SETTINGS,
        "sounds_sha256": lists.sounds_sha256,
        "classes_sha256": lists.classes_sha256,
        "prompt_sha256": prompt.sha256,
        "n_sounds": len(lists.sounds),
        "shortlist": settings,
        "asked": asked,
    }


def _shuffled(sound: str, lists: LabelLists, label_ids: Sequence[int]) -> list[str]:
    """The candidates in an order that only the names decide: a small model likes to copy the first."""
    names = sorted(lists.classes[i] for i in label_ids)
    random.Random(cache.sha256_text(sound, names)).shuffle(names)
    return names


class Journal:
    """data/replies/<dataset>.jsonl while it grows: the plan, then replies in the order in which they came."""

    def __init__(self, path: Path, plan: Record, replies: list[Record]) -> None:
        self.path, self.plan, self.replies = path, plan, replies
        self.n_appended = 0
        self._lock = Lock()

    def attempts(self, question_sha256: str) -> list[Record]:
        """The replies to one question so far, first attempt first."""
        with self._lock:
            found = [reply for reply in self.replies if reply["question_sha256"] == question_sha256]
        return sorted(found, key=lambda reply: int(reply["attempt"]))

    def answered(self, question_sha256: str) -> bool:
        """Whether one of them is valid."""
        return any(reply["error"] is None for reply in self.attempts(question_sha256))

    def write(self) -> None:
        """Write everything anew: after this the first line is today's plan and no line is torn."""
        cache.write_text(self.path, "".join(_line(record) for record in [self.plan, *self.replies]))

    def append(self, reply: Record) -> None:
        """Add one reply to the file's end, at once."""
        with self._lock:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(reply))
            self.replies.append(reply)
            self.n_appended += 1

    def finish(self, wanted: Sequence[str]) -> None:
        """Rewrite in sound order and drop replies to questions that nobody asks any more."""
        kept = [reply for reply in self.replies if reply["question_sha256"] in set(wanted)]
        if dropped := len(self.replies) - len(kept):
            log.info("%s: dropped %d replies to questions that are not asked any more", self.path, dropped)
        self.replies = sorted(kept, key=lambda reply: (reply["audio_id"], reply["attempt"]))
        self.write()


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _ask_all(options: Options, prompt: Prompt, questions: list[Question], journal: Journal) -> None:
    if not questions:
        return
    with closing(Endpoint(options)) as endpoint, ThreadPoolExecutor(options.concurrency) as pool:
        _converse(options, prompt, questions[0], journal, endpoint)  # alone: it finds out which form the endpoint takes
        futures = [pool.submit(_converse, options, prompt, question, journal, endpoint) for question in questions[1:]]
        try:
            for n, future in enumerate(futures, start=2):
                future.result()
                if n % 20 == 0 or n == len(questions):
                    log.info("%d of %d questions answered", n, len(questions))
        finally:
            pool.shutdown(cancel_futures=True)


def _converse(options: Options, prompt: Prompt, question: Question, journal: Journal, endpoint: "Endpoint") -> None:
    """Ask until a reply is valid, telling the model each time what was wrong.  Recorded attempts count."""
    key = llm.question_sha256(journal.plan, prompt, question)
    past = journal.attempts(key)
    while not past or past[-1]["error"] is not None:
        if len(past) >= options.max_attempts:
            raise MapperError(
                f"the sound {question.sound!r} got no valid reply in {len(past)} attempts, the last fault: {past[-1]['error']}: "
                f"raise --max_attempts or choose another --model; {journal.path} keeps what was answered"
            )
        request = llm.messages(prompt, question)
        for last in past[-1:]:
            request.append({"role": "assistant", "content": last["raw"]})
            request.append({"role": "user", "content": f"Not valid: {last['error']}. Answer again."})
        reply = endpoint.ask(request, llm.schema(question), question.sound)
        header = {"kind": "reply", "audio_id": question.audio_id, "sound": question.sound, "attempt": len(past) + 1}
        hashes = {"prompt_sha256": prompt.sha256, "question_sha256": key}
        hashes["request_sha256"] = cache.sha256_text(options.model, SETTINGS, request)
        said = {"request": request[1:], "error": _fault(reply, question)}  # the system prompt is data/prompts', by its hash
        past.append(header | {"model": options.model} | hashes | said | reply)
        journal.append(past[-1])


def _fault(reply: Record, question: Question) -> str | None:
    try:
        llm.read_reply(reply["raw"], reply["finish_reason"], question)
    except llm.ReplyError as error:
        return str(error)
    return None


class Endpoint:
    """An OpenAI-compatible chat endpoint, and the structured-output form that it turned out to take."""

    def __init__(self, options: Options) -> None:
        import openai

        logging.getLogger("httpx2").setLevel(logging.WARNING)  # or the client's transport logs a line a request
        self._openai, self._options = openai, options
        key = os.environ.get("OPENAI_API_KEY") or "none"  # local servers want no key, the client wants one
        self._client = openai.OpenAI(base_url=options.base_url, api_key=key, timeout=options.timeout_s, max_retries=4)
        self._form: str | None = None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, messages: list[Record], schema: Record, sound: str) -> Record:
        """One request: raw text, finish reason, form, tokens, seconds, date.  Raises MapperError where no answer comes."""
        start = time.monotonic()
        try:
            completion = self._complete(messages, schema)
        except self._openai.OpenAIError as error:
            raise MapperError(
                f"{self._options.base_url} did not answer for the sound {sound!r} ({type(error).__name__}: {str(error)[:200]}): "
                "check --base_url, --model and OPENAI_API_KEY, then run the same command again: it goes on where it stopped"
            ) from error
        choice, usage = completion.choices[0], completion.usage
        return {
            "endpoint": "chat.completions",
            "form": self._form,
            "raw": choice.message.content or choice.message.refusal or "",
            "finish_reason": choice.finish_reason,
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "completion_tokens": usage.completion_tokens if usage else None,
            "seconds": round(time.monotonic() - start, 2),
            "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _complete(self, messages: list[Record], schema: Record) -> Any:
        if self._form is not None:
            return self._create(self._client, self._form, messages, schema)
        try:
            completion = self._create(self._client.with_options(max_retries=1), "json_schema", messages, schema)
            self._form = "json_schema"
        except self._openai.APIStatusError as error:
            if error.status_code not in REFUSES_FORM:
                raise
            log.info("the endpoint answered %d to json_schema: trying json_object with the schema inside", error.status_code)
            completion = self._create(self._client, "json_object", messages, schema)
            self._form = "json_object"
        return completion

    def _create(self, client: Any, form: str, messages: list[Record], schema: Record) -> Any:
        strict = {"type": "json_schema", "json_schema": {"name": "matches", "schema": schema, "strict": True}}
        loose = {"type": "json_object", "schema": schema}
        response_format = strict if form == "json_schema" else loose
        return client.chat.completions.create(model=self._options.model, messages=messages, response_format=response_format, **SETTINGS)
