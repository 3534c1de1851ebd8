"""A chat endpoint on this machine that answers as a test tells it, and a small project to ask it about."""

import json
import math
import re
import shutil
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pipeline import mappers
from pipeline.labels.lists import label_lists, read_classes
from pipeline.llm import ask
from tests.places import ROOT

SOUNDS = ("Dog", "Bark", "Meow", "Speech")
CLASSES = ("dog", "cat", "fire_truck")
TRUE_PAIRS = [("Dog", "dog", 1.0), ("Bark", "dog", 0.5), ("Meow", "cat", 1.0)]  # what `right` says, below
FINISHED, UNFINISHED = Path("data/replies/pets.jsonl"), Path("data/replies/pets.asking.jsonl")
Request = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What the endpoint says to one request."""

    content: Any = ""  # the message: text, or an object that becomes its JSON
    status: int = 200
    finish_reason: str = "stop"
    refusal: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    message: dict[str, Any] | None = None  # instead of one with `content`
    choice: dict[str, Any] = field(default_factory=dict)  # what the choice holds besides
    body: str | bytes | None = None  # instead of a chat completion
    n_cut: int = 0  # bytes of the body that are promised and never sent
    wait_for: threading.Event | None = None  # before answering
    pause_s: float = 0.0  # after each byte of the body, or with `drips_head` of the head
    drips_head: bool = False
    n_times: int = 1  # the body is sent


class Chat:
    """The endpoint: what it was asked, when and with which keys, and the function that answers."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.times: list[float] = []
        self.keys: set[str | None] = set()
        self.answer: Callable[[Request], Answer] = right
        self.url = ""

    def asked(self) -> list[str]:
        """The first sound of each request, in order."""
        return [sounds_of(request)[0] for request in self.requests]


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Chat]:
    """Run an endpoint on a free port, over TLS with the certificate and key of that file."""
    chat = Chat()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            chat.requests.append(request)
            chat.times.append(time.monotonic())
            chat.keys.add(self.headers["Authorization"])
            answer = chat.answer(request)
            if answer.wait_for is not None:
                answer.wait_for.wait(30)
            said = completion(answer) if answer.body is None else answer.body
            body = said if isinstance(said, bytes) else said.encode()
            try:
                self.send_response(answer.status)
                size = {"Content-Type": "application/json", "Content-Length": str(len(body) * answer.n_times)}
                for name, value in (size | answer.headers).items():
                    self.send_header(name, value)
                if answer.drips_head:
                    self.drip(b"X-Slow: " + b"." * 1000, answer.pause_s)
                self.end_headers()
                if answer.pause_s:
                    self.drip(body, answer.pause_s)
                for _ in range(answer.n_times):
                    self.wfile.write(body[: len(body) - answer.n_cut])
            except OSError:
                pass  # the client has given up or was killed, which is what the test is about
            if answer.n_cut or answer.pause_s:
                self.close_connection = True

        def drip(self, told: bytes, pause_s: float) -> None:
            self.flush_headers()
            for byte in told:
                self.wfile.write(bytes([byte]))
                time.sleep(pause_s)

        def log_message(self, *args: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    chat.url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{server.server_port}/v1"
    yield chat
    server.shutdown()
    thread.join()
    server.server_close()


def completion(answer: Answer) -> str:
    content = answer.content if isinstance(answer.content, str) else json.dumps(answer.content)
    message = {"role": "assistant", "content": None if answer.refusal else content, "refusal": answer.refusal}
    if answer.message is not None:
        message = {"role": "assistant"} | answer.message
    choice = {"index": 0, "finish_reason": answer.finish_reason, "message": message} | answer.choice
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    )


def user_text(request: Request) -> str:
    """What the first user's turn says, the system's text cut off where it stands there too."""
    text: str = next(message["content"] for message in request["messages"] if message["role"] == "user")
    return text[[found.start() for found in re.finditer(r"^Sounds? ?(?:\(\d+\))?: ", text, re.MULTILINE)][-1] :]


def sounds_of(request: Request) -> list[str]:
    """The sounds that a request asks about, read back from the prompt's quotes: one of the form pick, a list of the
    form block.
    """
    text = user_text(request)
    found = json.JSONDecoder().raw_decode(text[text.index(": ") + 2 :])[0]
    return [found] if isinstance(found, str) else list(found)


def is_first(request: Request) -> bool:
    """Whether it is the question's first attempt, which is told of no fault."""
    return "Not valid: " not in request["messages"][-1]["content"]


def format_of(request: Request) -> str:
    """The structured-output format that a request wants, by its name in `_formats`."""
    wanted = request.get("response_format", {"type": "text"})
    return "json_object_plain" if wanted == {"type": "json_object"} else str(wanted["type"])


def match(label: object, weight: object = 1.0) -> dict[str, object]:
    return {"class": label, "reason": f"the voice of a {label}", "necessary": False, "weight": weight}


def reply(*matches: dict[str, object]) -> dict[str, Any]:
    """A reply of the form pick."""
    return {"made_by": "it", "matches": list(matches)}


TRUTH = {"Dog": [match("dog")], "Bark": [match("dog", 0.5)], "Meow": [match("cat")], "Speech": []}


def right(request: Request) -> Answer:
    """What a good model says about the four sounds, in the form in which it was asked."""
    sounds = sounds_of(request)
    if user_text(request).startswith("Sounds ("):
        return Answer({"sounds": [{"sound": sound, "matches": TRUTH[sound]} for sound in sounds]})
    return Answer(reply(*TRUTH[sounds[0]]))


def only(sound: str, answer: Answer) -> Callable[[Request], Answer]:
    """Answer so when first asked about `sound`, and rightly otherwise."""
    return lambda request: answer if sound in sounds_of(request) and is_first(request) else right(request)


def record(chat: Chat, **changed: Any) -> dict[str, object]:
    """Ask the endpoint about `pets`, in the form pick unless told otherwise."""
    flags: dict[str, Any] = {"dataset": "pets", "base_url": chat.url, "model": "small", "form": "pick"}
    flags["max_retries"] = 1
    return dict(ask.run(ask.Options(**(flags | changed))))


def replay() -> list[tuple[str, str, float]]:
    """The pairs that the recording makes: sound, class, weight."""
    lists = label_lists("pets", read_classes("pets"))
    return [(lists.sounds[p.audio_id], lists.classes[p.label_id], p.weight) for p in mappers.build("llm")(lists).pairs]


def make_project(root: Path) -> Path:
    """A project root with four sounds and the three classes of a data set `pets`; prompts and contract are the real
    ones.
    """
    for folder in ("cache/pets", "data/labels", "data/replies"):
        (root / folder).mkdir(parents=True)
    shutil.copy(ROOT / "cache/schema.sql", root / "cache")
    shutil.copytree(ROOT / "data/prompts", root / "data/prompts")
    for name in ("data/labels/generic_sounds.txt", "data/labels/audioset_ontology.json"):
        shutil.copy(ROOT / name, root / "data/labels")
    rows = "".join(f"{i},/m/{i},{name}\n" for i, name in enumerate(SOUNDS))
    (root / "data/labels/audioset.csv").write_text(f"index,mid,display_name\n{rows}")
    write_classes(root, CLASSES)
    return root


def likely(**probabilities: float) -> Answer:
    """A reply of one token, as servers give it with logprobs: the tokens and how likely each was."""
    told = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in probabilities.items()]
    best = max(told, key=lambda one: float(str(one["logprob"])))
    logprobs = {"content": [best | {"top_logprobs": told}]}
    return Answer(str(best["token"]), finish_reason="length", choice={"logprobs": logprobs})


def asked_to_score(request: Request) -> tuple[str, str | None, dict[str, str]]:
    """What a question of the form score asks, read back from its text: the sound, the class (None: which), and the
    letter of each option.
    """
    system, text = request["messages"][0]["content"], request["messages"][-1]["content"]
    if text.startswith(("Sound: ", "Thing: ")):
        options = {
            json.loads(name): letter for letter, name in re.findall(r"^([A-S])\) (\".*\")$", system, re.MULTILINE)
        }
        return json.loads(text[len("Sound: ") :]), None, options
    sound, label = (json.loads(name) for name in re.split(", video |, class ", text.removesuffix(":")))
    return sound, label, {}


def right_scores(request: Request) -> Answer:
    """What a good model says in the form score."""
    sound, label, letters = asked_to_score(request)
    true = [str(one["class"]) for one in TRUTH[sound]]
    if label is not None:
        return likely(yes=0.9, no=0.1) if label in true else likely(yes=0.1, no=0.9)
    best = letters[true[0] if true else "none of these"]
    return likely(**{letter: 0.91 if letter == best else 0.03 for letter in letters.values()})


def near_all(
    sounds: object, classes: "tuple[str, ...]", generic: object, n_per_class: int, head: bool = False
) -> list[list[int]]:
    """A shortlist without an embedding: three sounds for each class."""
    return [[0, 1, 2] for _ in classes]


def write_classes(root: Path, classes: tuple[str, ...]) -> None:
    for path in ("data/labels/pets.txt", "cache/pets/labels.txt"):
        (root / path).write_text("".join(f"{name}\n" for name in classes))


def three_of_four(sounds: object, classes: object, floor: float, top_n: int) -> list[list[int]]:
    """A shortlist without an embedding: every class for three sounds, none for the fourth."""
    return [[0, 1, 2], [0, 1, 2], [0, 1, 2], []]


def lines(path: Path = FINISHED) -> list[dict[str, Any]]:
    """The records of a recording."""
    return [json.loads(line) for line in path.read_text().split("\n") if line]
