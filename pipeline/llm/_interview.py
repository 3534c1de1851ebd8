"""Ask one question until its reply is valid, within a budget of tokens.  A reply is recorded at once."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from adapt.errors import MapperError
from adapt.tables.files import sha256_text
from pipeline.llm._endpoint import Endpoint
from pipeline.llm._settings import about_tokens, token_limit, with_more_tokens
from pipeline.llm.forms import Prompt, Question, Record, ReplyError, is_cut, without_reasoning
from pipeline.llm.recording import Journal, question_sha256


class OverBudget(Exception):  # noqa: N818 - what happened; the caller makes it a MapperError that says what is left
    """A request that might spend more than the budget was not sent."""

    def __init__(self, total: int, spent: int, wanted: int) -> None:
        super().__init__()
        self.total, self.spent, self.wanted = total, spent, wanted


class Budget:
    """Tokens that a run may use; each request reserves the most that it may take and settles for what it took."""

    def __init__(self, total: int | None) -> None:
        self._total, self._spent, self._reserved = total, 0, 0
        self._lock = threading.Lock()

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

    def ask(self, question: Question, stop: threading.Event) -> None:
        """Ask until a reply is valid, telling the model each time what was wrong.  Recorded attempts count."""
        key = question_sha256(self.plan, self.prompt, question)
        past = self.journal.attempts(key)
        while (not past or past[-1]["error"] is not None) and not stop.is_set():
            if _n_alike(past) >= self.max_attempts and self.endpoint.takes(past[-1].get("form")):
                raise MapperError(
                    f"the sound {question.sound!r} got no valid reply in {len(past)} attempts, the last fault: "
                    f"{past[-1]['error']}: "
                    f"raise --max_attempts or choose another --model; {self.journal.path} keeps what was answered"
                )
            first = question.messages(self.prompt)
            request = _with_fault(first, past[-1]) if past else first
            header = {"kind": "reply", "audio_id": question.audio_id, "sound": question.sound, "attempt": len(past) + 1}
            hashes = {"prompt_sha256": self.prompt.sha256, "question_sha256": key}
            hashes["request_sha256"] = sha256_text(self.plan["model"], self.plan["settings"], request)
            reply = self._send(request, question)
            said = {
                "request": request[len(first) - 1 :],
                "error": _fault(reply, question),
            }  # what comes before is data/prompts', by its hash
            past.append(header | {"model": self.plan["model"]} | hashes | said | reply)
            self.journal.append(past[-1])
            if past[-1]["error"] is not None and _ran_out_while_reasoning(
                past[-1]
            ):  # the same request again would end the same
                used = f"{reply['completion_tokens'] or 'its'} tokens"
                raise MapperError(
                    f"{self.plan['model']} used up {used} reasoning about {question.sound!r} and gave no answer: raise "
                    f"max_tokens: --settings '{with_more_tokens(self.plan['settings'])}', or turn its reasoning off "
                    "there"
                )

    def _send(self, request: list[Record], question: Question) -> Record:
        about = about_tokens(request)
        most = about + token_limit(self.plan["settings"])
        self.budget.reserve(most)
        used = 0
        try:
            reply = self.endpoint.ask(request, question.schema(), question.sound)
            used = (reply["prompt_tokens"] or about) + (reply["completion_tokens"] or len(reply["raw"]) // 3)
        finally:
            self.budget.settle(most, used)
        return reply


def _n_alike(past: Sequence[Record]) -> int:
    """How many attempts were made in the last one's output format."""
    return sum(reply.get("form") == past[-1].get("form") for reply in past)


def _with_fault(request: list[Record], last: Record) -> list[Record]:
    """The request again, with the last reply and what was wrong with it.

    Without the reply where it is empty or no turn of the model's: endpoints refuse an empty turn, and templates two
    turns of the user's in a row.
    """
    said = f"Not valid: {last['error']}. Answer again."
    if last["raw"].strip() and last.get("found_in", "content") in ("content", "refusal"):
        return [*request, {"role": "assistant", "content": last["raw"]}, {"role": "user", "content": said}]
    return [*request[:-1], request[-1] | {"content": f"{request[-1]['content']}\n\nYour last answer: {said}"}]


def _ran_out_while_reasoning(reply: Record) -> bool:
    answered = reply["found_in"] == "content" and without_reasoning(reply["raw"]).strip()
    return is_cut(reply["finish_reason"]) and not answered


def _fault(reply: Record, question: Question) -> str | None:
    try:
        question.read(reply)
    except ReplyError as error:
        return str(error)
    return None
