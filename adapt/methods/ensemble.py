"""An ensemble of adapters (ours): ViTTA, and beside it methods that fail on other corruptions, mixed in logarithms.

A network that follows batch norm's statistics (dua.py) is best under noise, one that aligns features (vitta.py) under
contrast and blur, the source where little is changed.  All take the same clips in, each with weights, statistics and
momentum of its own on the one network; their answers make a logarithmic opinion pool, in which each counts by the
information in it (adapt/core/pool.py).  What the network is left with between two clips is ViTTA's.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from adapt.contract import Answer, Batch, SourceStatistics, Step
from adapt.core import settings as settings_
from adapt.core.batch_norm import batch_norms
from adapt.core.learner import Learner, SgdSettings, adapted_parameters, milliseconds_since
from adapt.core.moments import norm_layers, source_moments
from adapt.core.pool import Pool, Pooling
from adapt.core.settings import setting
from adapt.core.state import Stateful
from adapt.errors import MethodError
from adapt.losses import Alignment, consistency
from adapt.methods import dua, neo, vitta_dua
from adapt.methods._members import Member
from adapt.methods.vitta import Aligning

BESIDE: Mapping[str, ModuleType] = {"dua": dua, "vitta_dua": vitta_dua, "neo": neo}
AUTO, NONE = "auto", "none"
VIEWS = 1  # of each clip, for the members beside ViTTA: as good as two on validation clips, and cheaper


@dataclass(frozen=True)
class Joining(Aligning, Pooling):
    """Of methods that are an ensemble."""

    members: str = setting(AUTO, several=True, choices=(AUTO, NONE, "source", *BESIDE))
    """who answers beside ViTTA; auto: dua and source, of networks without batch norm neo and source"""


@dataclass(frozen=True)
class Settings(Joining, SgdSettings):
    """Of the ensemble."""


class Beside(NamedTuple):
    """What the members beside ViTTA say of a batch: log-probabilities (B, K) each."""

    before: list[Tensor]
    after: list[Tensor]
    source: Tensor | None  # the source's, where it was asked
    pooled: bool  # whether the source is a member: its answer is then the last of both

    @property
    def unpooled(self) -> Tensor | None:
        """The source's answer where it is no part of the pool."""
        return None if self.pooled else self.source


def members_of(settings: Joining, model: nn.Module) -> list[str]:
    """The members beside ViTTA, the source last where it has a weight.

    Raises MethodError where `auto` or `none` stands among others.
    """
    names = settings.members.split(",")
    if len(names) > 1 and {AUTO, NONE} & {*names}:
        raise MethodError(f"members is {settings.members!r}: {AUTO} and {NONE} stand alone")
    if names == [AUTO]:
        names = ["dua" if batch_norms(model) else "neo", "source"]
    named = [name for name in names if name not in (NONE, "source")]
    return named + ["source"] * ("source" in names and settings.source_mix > 0)


class Members(Stateful):
    """The members beside a method's own network, and the pool of all answers."""

    def __init__(
        self, model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Joining, names: list[str]
    ) -> None:
        given = {
            one.name: getattr(settings, one.name) for one in dataclasses.fields(settings) if one.name != "budget_ms"
        }
        parameters = adapted_parameters(model, given["scope"])
        self.names = names
        self.made: dict[str, Member] = {}
        for name in names:
            if name != "source":
                module: Any = BESIDE[name]
                method = module.build(model, statistics, n_classes, settings_.choose(module.Settings, given))
                self.made[name] = Member(model, method, parameters)
        self.pool = Pool(
            n_classes, 1 + len(names), settings.information, settings.source_mix if "source" in names else 1
        )

    def _parts(self) -> dict[str, Stateful]:
        return {"pool": self.pool, **self.made}

    def ask(self, batch: Batch, source: Tensor | None) -> Beside:
        """Every member adapts on the batch and predicts it; `source` is what the source says, where it was asked."""
        first = dataclasses.replace(batch, frames=batch.frames[:, :VIEWS])
        answers = [member.adapt(first) for member in self.made.values()]
        pooled = "source" in self.names
        last = [source] if pooled and source is not None else []
        return Beside([one.before for one in answers] + last, [one.after for one in answers] + last, source, pooled)

    def before(self, own: Tensor, beside: Beside) -> Tensor:
        """The pool of all views as first seen, ViTTA's `own` among them: log-probabilities (B, K)."""
        return self.pool.mix([own, *beside.before])

    def after(self, own: Tensor, beside: Beside) -> Tensor:
        """The pool of all centre views, ViTTA's `own` among them: log-probabilities (B, K)."""
        return self.pool.mix([own, *beside.after])

    def add(self, own: Tensor, beside: Beside) -> None:
        """Take in what all said of the views as first seen."""
        self.pool.add([own, *beside.before])


class Ensemble(Learner):
    """ViTTA and the members beside it."""

    asks_source = False  # also where the source is no member

    def __init__(self, model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Any) -> None:
        self.settings, self.layers = settings, norm_layers(model)
        source = source_moments(model, self.layers, statistics)
        self.members = Members(model, statistics, n_classes, settings, members_of(settings, model))
        super().__init__(model, settings, adapted_parameters(model, settings.scope), settings.lr)
        self.alignment = Alignment(source, ema=settings.ema)

    def ask(self, batch: Batch) -> Beside:
        """What the members beside ViTTA say; they have adapted on the batch."""
        wanted = "source" in self.members.names or self.asks_source
        return self.members.ask(batch, self.source_answer(batch) if wanted else None)

    def learn(self, batch: Batch) -> Answer:
        """Every member takes its step on the batch and predicts it."""
        beside = self.ask(batch)
        started = time.perf_counter()
        views = self.look(batch)
        own = views.log_mean.detach()
        align, agree = self.alignment.loss(views.seen), consistency(views.log_p)
        loss = align + self.settings.consistency * agree
        trace = []
        if self.optimiser.step(loss):
            self.alignment.commit(views.seen)
            trace = [Step(loss.item(), bool(views.agree), milliseconds_since(started), align.item(), agree.item())]
        answer = Answer(
            self.members.before(own, beside),
            self.members.after(self.predict(batch), beside),
            steps=len(trace),
            stop_reason="max_iterations",
            trace=trace,
            source=beside.source,
            pooled=beside.pooled,
        )
        self.members.add(own, beside)
        return answer


def build(model: nn.Module, statistics: SourceStatistics | None, n_classes: int, settings: Settings) -> Ensemble:
    """The ensemble around `model`."""
    return Ensemble(model, statistics, n_classes, settings)
