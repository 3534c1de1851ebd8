"""Ask a language model which classes each sound points to, and record every reply: `python -m pipeline.map_labels ask
DATASET`.

A person's act, never a stage's: it costs money or minutes.  Any OpenAI-compatible endpoint serves.  Each reply is on
disk before the next question of its thread goes out, so a run that is stopped, killed, or out of tokens goes on where
it stopped and asks nothing twice; the recording that the stage replays changes only when everything is answered.
"""

import itertools
import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import tyro
from tqdm import tqdm  # type: ignore[import-untyped]

from adapt import command
from adapt.errors import MapperError, StoppedError
from pipeline.labels.lists import LabelLists, head_lists, label_lists, read_classes
from pipeline.llm import forms
from pipeline.llm._settings import about_tokens, read_settings
from pipeline.llm.forms import Cut, Prompt, Question, Record, read_prompt
from pipeline.llm.recording import Journal, question_sha256, stale
from pipeline.workers import crew

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Ask a language model for the label map of a data set."""

    dataset: tyro.conf.Positional[str]
    base_url: str  # of an OpenAI-compatible endpoint, e.g. http://localhost:8000/v1
    model: str  # the endpoint's name of the model; recorded
    classes: str = ""
    """a list that names a model's outputs: ask to which classes of the data set these lead, in the place of sounds"""
    form: str = "score"
    """score: one token a question, its probability is read, which takes an endpoint with logprobs; pick: one sound and
    a few classes, for a small model; block: many sounds and all classes, for a strong one"""
    dry_run: bool = False  # print how many requests and about how many tokens it takes, ask nothing
    max_tokens_total: int | None = command.number(None, low=1)  # stop before this run has used more, in and out
    max_attempts: int = command.number(3, low=1)  # per question and output format, each with the last reply's fault
    concurrency: int = command.number(1, low=1, high=256)  # questions in flight
    timeout_s: float = command.number(120.0, low=0, high=86400, above=True)  # per request, its whole reply included
    max_retries: int = command.number(4, low=0)  # of a request that fails with 429, 5xx or a timeout
    settings: str = ""
    """sampling settings as JSON instead of the form's own, e.g. '{"max_completion_tokens": 9000}'; recorded"""
    floor: float = command.number(Cut.floor, low=-1, high=1)
    """pick: cosine; sounds with no class this near are not asked"""
    top_n: int = command.number(Cut.top_n, low=1)  # pick: candidate classes a sound
    block_size: int = command.number(Cut.block_size, low=1)  # block: sounds a request
    n_per_class: int = command.number(Cut.n_per_class, low=1)
    """score: sounds that are asked about, of a class on average"""
    n_orders: int = command.number(Cut.n_orders, low=1, high=20)  # score: shuffled orders of the options


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
    listed = read_classes(options.dataset)
    lists = (
        head_lists(options.dataset, options.classes, listed)
        if options.classes
        else label_lists(options.dataset, listed)
    )
    prompt = read_prompt(options.form, bool(lists.head))
    with Journal(lists.dataset) as journal:
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
            lists.dataset,
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
        "n_per_class": 1,
        "n_orders": 1,
        "max_tokens_total": 1,
    }.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise MapperError(f"--{name} {value}: give at least {least}")
    if not 0 < options.timeout_s < threading.TIMEOUT_MAX:
        raise MapperError(f"--timeout_s {options.timeout_s}: give seconds above 0")


def _plan(options: Options, lists: LabelLists, prompt: Prompt, recorded: Sequence[Record]) -> Record:
    """A recorded plan where it still asks the same, so that another machine's rounding cannot change it; else a new
    one.
    """
    form, size = (
        forms.build(options.form),
        Cut(options.floor, options.top_n, options.block_size, options.n_per_class, options.n_orders),
    )
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
    tokens_in = sum(about_tokens(question.messages(prompt)) for question in questions)
    tokens_out = sum(question.n_sounds for question in questions) * forms.build(plan["form"]).TOKENS_OUT
    return {"n_requests": len(questions), "n_tokens_in": tokens_in, "n_tokens_out": tokens_out}


def _ask_all(options: Options, plan: Record, prompt: Prompt, questions: Sequence[Question], journal: Journal) -> None:
    # these load the client, which a dry run does not need
    from pipeline.llm._endpoint import Endpoint
    from pipeline.llm._interview import Budget, Interview, OverBudget

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
