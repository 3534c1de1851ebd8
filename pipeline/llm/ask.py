"""Ask a language model which classes each sound points to, and record every reply: `python -m pipeline.map_labels ask
DATASET`.

A person's act, never a stage's: it costs money or minutes.  Any OpenAI-compatible endpoint serves.  Each reply is on
disk before the next question of its thread goes out, so a run that is stopped, killed, or out of tokens goes on where
it stopped and asks nothing twice; the recording that the stage replays changes only when everything is answered.
"""

import itertools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from threading import Event, Lock

import tyro
from tqdm import tqdm  # type: ignore[import-untyped]

from adapt import command
from adapt.errors import MapperError, StoppedError
from adapt.tables.files import sha256_text
from pipeline.labels.lists import LabelLists, label_lists, read_classes
from pipeline.llm import forms
from pipeline.llm._endpoint import Endpoint, read_settings
from pipeline.llm.forms import Cut, Prompt, Question, Record, ReplyError, read_prompt
from pipeline.llm.recording import Journal, question_sha256, stale
from pipeline.workers import crew

log = logging.getLogger(__name__)
CHARACTERS_PER_TOKEN = 3.4  # of the recorded prompts, by Qwen2.5's tokenizer: 850 tokens a question of 2,880 characters


@dataclass(frozen=True)
class Options:
    """Ask a language model for the label map of a data set."""

    dataset: tyro.conf.Positional[str]
    base_url: str  # of an OpenAI-compatible endpoint, e.g. http://localhost:8000/v1
    model: str  # the endpoint's name of the model; recorded
    form: str = "pick"
    """pick: one sound and a few classes, for a small model; block: many sounds and all classes, for a strong one"""
    dry_run: bool = False  # print how many requests and about how many tokens it takes, ask nothing
    max_tokens_total: int | None = command.number(None, low=1)  # stop before this run has used more, in and out
    max_attempts: int = command.number(3, low=1)  # per question, each with the last reply's fault
    concurrency: int = command.number(1, low=1, high=256)  # questions in flight
    timeout_s: float = command.number(120.0, low=0, high=86400, above=True)  # per request
    max_retries: int = command.number(4, low=0)  # of a request that fails with 429, 5xx or a timeout
    settings: str = ""
    """sampling settings as JSON instead of the form's own, e.g. '{"max_completion_tokens": 9000}'; recorded"""
    floor: float = command.number(Cut.floor, low=-1, high=1)
    """pick: cosine; sounds with no class this near are not asked"""
    top_n: int = command.number(Cut.top_n, low=1)  # pick: candidate classes a sound
    block_size: int = command.number(Cut.block_size, low=1)  # block: sounds a request


def run(options: Options) -> Mapping[str, object]:
    """Bring data/replies/<dataset>.jsonl up to date; return counts.

    Raises MapperError where the endpoint fails, a question got no valid reply in `max_attempts`, or the tokens are used
    up, StoppedError on Ctrl-C; what was answered is kept.
    """
    _check(options)
    try:
        return _record(options)
    except KeyboardInterrupt:
        raise StoppedError(
            "stopped by Ctrl-C with no question in flight: run the same command again, it goes on from there"
        ) from None


def _record(options: Options) -> Mapping[str, object]:
    lists = label_lists(options.dataset, read_classes(options.dataset))
    prompt = read_prompt(options.form)
    with Journal(options.dataset) as journal:
        plan = _plan(options, lists, prompt, journal.plans)
        questions = {
            question_sha256(plan, prompt, question): question for question in forms.build(options.form).questions(plan)
        }
        open_ = [question for key, question in questions.items() if not journal.answered(key)]
        counts = {
            "n_sounds": len(lists.sounds),
            "n_questions": len(questions),
            "n_answered": len(questions) - len(open_),
        }
        estimate = _estimate(plan, prompt, open_)
        asked = (
            f"{counts['n_answered']} of {len(questions)} questions are answered, {len(open_)} requests to "
            f"{options.model} are left"
        )
        log.info(
            "%s: %s, about %d tokens in and %d out",
            options.dataset,
            asked,
            estimate["n_tokens_in"],
            estimate["n_tokens_out"],
        )
        if options.dry_run:
            return counts | estimate
        if open_:
            journal.begin(plan)
            _ask_all(options, plan, prompt, open_, journal)
        journal.finish(plan, list(questions))
        return counts | {"n_answered": len(questions), "n_requests": journal.n_appended}


def _check(options: Options) -> None:
    if options.form not in forms.names():
        raise MapperError(f"unknown --form {options.form!r}: choose one of {forms.names()}")
    for name, least in {
        "max_attempts": 1,
        "concurrency": 1,
        "max_retries": 0,
        "top_n": 1,
        "block_size": 1,
        "max_tokens_total": 1,
    }.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise MapperError(f"--{name} {value}: give at least {least}")


def _plan(options: Options, lists: LabelLists, prompt: Prompt, recorded: Sequence[Record]) -> Record:
    """A recorded plan where it still asks the same, so that another machine's rounding cannot change it; else a new
    one.
    """
    form, size = forms.build(options.form), Cut(options.floor, options.top_n, options.block_size)
    wanted = {
        "form": options.form,
        "model": options.model,
        "settings": read_settings(options.settings, form.SETTINGS),
    } | form.cut(size)
    for old in recorded:
        if all(old.get(name) == value for name, value in wanted.items()) and stale(old, lists, prompt) is None:
            return old
    hashes = {
        "sounds_sha256": lists.sounds_sha256,
        "classes_sha256": lists.classes_sha256,
        "prompt_sha256": prompt.sha256,
    }
    sizes = {"dataset": lists.dataset, "n_sounds": len(lists.sounds)}
    return {"kind": "plan"} | wanted | hashes | sizes | {"asked": form.asked(lists, size)}


def _estimate(plan: Record, prompt: Prompt, questions: Sequence[Question]) -> dict[str, int]:
    tokens_in = sum(_about_tokens(question.messages(prompt)) for question in questions)
    tokens_out = sum(question.n_sounds for question in questions) * forms.build(plan["form"]).TOKENS_OUT
    return {"n_requests": len(questions), "n_tokens_in": tokens_in, "n_tokens_out": tokens_out}


def _about_tokens(messages: Sequence[Record]) -> int:
    return round(sum(len(message["content"]) for message in messages) / CHARACTERS_PER_TOKEN)


def _ask_all(options: Options, plan: Record, prompt: Prompt, questions: Sequence[Question], journal: Journal) -> None:
    settings = plan["settings"]
    budget = Budget(options.max_tokens_total)
    with closing(
        Endpoint(options.base_url, options.model, settings, options.timeout_s, options.max_retries)
    ) as endpoint:
        interview = Interview(options.max_attempts, plan, prompt, journal, endpoint, budget)
        with tqdm(total=len(questions), unit="question", file=sys.stderr, disable=None) as bar:  # no terminal, no bar
            done = _counter(bar, len(questions))
            try:
                crew.each(interview.ask, questions[:1], 1, done)  # alone: it finds out which format the endpoint takes
                crew.each(interview.ask, questions[1:], options.concurrency, done)
            except crew.Stopped:
                raise StoppedError(f"stopped by Ctrl-C: {_left(questions, plan, prompt, journal)}") from None
            except OverBudget as over:
                used = (
                    f"--max_tokens_total {over.total}: {over.spent} are used and the next request may take "
                    f"{over.wanted}"
                )
                raise MapperError(f"{used}: {_left(questions, plan, prompt, journal)}") from None


def _counter(bar: tqdm, n_questions: int) -> Callable[[], None]:
    """What to call after each question: it moves the bar, or where there is none logs every twentieth."""
    n_done = itertools.count(1)

    def done() -> None:
        n = next(n_done)
        bar.update()
        if bar.disable and (n % 20 == 0 or n == n_questions):
            log.info("%d of %d questions answered", n, n_questions)

    return done


def _left(questions: Sequence[Question], plan: Record, prompt: Prompt, journal: Journal) -> str:
    n_left = sum(not journal.answered(question_sha256(plan, prompt, question)) for question in questions)
    return (
        f"{n_left} questions are left, {journal.path} keeps what was answered: run the same command again, it goes "
        "on from there"
    )


class OverBudget(Exception):  # noqa: N818 - what happened; the caller makes it a MapperError that says what is left
    """A request that might spend more than the budget was not sent."""

    def __init__(self, total: int, spent: int, wanted: int) -> None:
        super().__init__()
        self.total, self.spent, self.wanted = total, spent, wanted


class Budget:
    """Tokens that a run may use; each request reserves the most that it may take and settles for what it took."""

    def __init__(self, total: int | None) -> None:
        self._total, self._spent, self._reserved = total, 0, 0
        self._lock = Lock()

    def reserve(self, n_tokens: int) -> None:
        """Raises OverBudget where these and those of the requests in flight might be too many."""
        with self._lock:
            if self._total is not None and self._spent + self._reserved + n_tokens > self._total:
                raise OverBudget(self._total, self._spent, n_tokens)
            self._reserved += n_tokens

    def settle(self, reserved: int, n_tokens: int) -> None:
        """Give back what was reserved and count what was used."""
        with self._lock:
            self._reserved -= reserved
            self._spent += n_tokens


@dataclass(frozen=True)
class Interview:
    """What asking one question after the other takes."""

    max_attempts: int
    plan: Record
    prompt: Prompt
    journal: Journal
    endpoint: Endpoint
    budget: Budget

    def ask(self, question: Question, stop: Event) -> None:
        """Ask until a reply is valid, telling the model each time what was wrong.  Recorded attempts count."""
        key = question_sha256(self.plan, self.prompt, question)
        past = self.journal.attempts(key)
        while (not past or past[-1]["error"] is not None) and not stop.is_set():
            if len(past) >= self.max_attempts:
                raise MapperError(
                    f"the sound {question.sound!r} got no valid reply in {len(past)} attempts, the last fault: "
                    f"{past[-1]['error']}: "
                    f"raise --max_attempts or choose another --model; {self.journal.path} keeps what was answered"
                )
            request = question.messages(self.prompt)
            for last in past[-1:]:
                request.append({"role": "assistant", "content": last["raw"]})
                request.append({"role": "user", "content": f"Not valid: {last['error']}. Answer again."})
            header = {"kind": "reply", "audio_id": question.audio_id, "sound": question.sound, "attempt": len(past) + 1}
            hashes = {"prompt_sha256": self.prompt.sha256, "question_sha256": key}
            hashes["request_sha256"] = sha256_text(self.plan["model"], self.plan["settings"], request)
            reply = self._send(request, question)
            said = {
                "request": request[1:],
                "error": _fault(reply, question),
            }  # the system prompt is data/prompts', by its hash
            past.append(header | {"model": self.plan["model"]} | hashes | said | reply)
            self.journal.append(past[-1])

    def _send(self, request: list[Record], question: Question) -> Record:
        about = _about_tokens(request)
        most = about + int(
            self.plan["settings"].get("max_tokens") or self.plan["settings"].get("max_completion_tokens") or 0
        )
        self.budget.reserve(most)
        used = 0
        try:
            reply = self.endpoint.ask(request, question.schema(), question.sound)
            used = (reply["prompt_tokens"] or about) + (reply["completion_tokens"] or len(reply["raw"]) // 3)
        finally:
            self.budget.settle(most, used)
        return reply


def _fault(reply: Record, question: Question) -> str | None:
    try:
        question.read(reply["raw"], reply["finish_reason"])
    except ReplyError as error:
        return str(error)
    return None
