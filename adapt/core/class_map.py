"""A model of other classes: what lies between its head and methods, which know the data set's classes alone.

A *class map* leads from head classes h to classes c of the data set, with weights w_hc in (0, 1].  The probability p_h
goes to the classes that h maps to: p_c = sum_h s_hc p_h with s_hc = w_hc / max(1, sum_c w_hc).  A head class that maps
to several is shared among them, so nothing is counted twice.  What is left, of head classes that map to nothing or with
weights below 1, answers another question than the data set's: it is left out, p is scaled to sum to 1, and how much it
was is told (`left_out`).  All is done in logarithms, so that no class is lost to underflow, and gradients reach the
whole network.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapt.contract import Block
from adapt.core import moments
from adapt.core.network import Network, blocks_around, check_logits
from adapt.errors import MethodError

Pairs = Sequence[tuple[int, int, float]]  # (head class, class of the data set, weight)
Leads = Mapping[str, str | Mapping[str, float]]  # head class -> a class of the data set, or classes with weights
OPTION = "model_classes"  # what `adapt.wrap` calls the names of the head's classes


def pairs_of(leads: Leads, head: Sequence[str], classes: Sequence[str]) -> list[tuple[int, int, float]]:
    """A class map by names as pairs by place.  Raises MethodError for a name that is not in its list."""
    head_ids, label_ids = ({name: i for i, name in enumerate(names)} for names in (head, classes))
    found = []
    for name, wanted in leads.items():
        for label, weight in ({wanted: 1.0} if isinstance(wanted, str) else wanted).items():
            for one, known, option in ((name, head_ids, OPTION), (label, label_ids, "classes")):
                if one not in known:
                    raise MethodError(f"class_map names {one!r}, which is not among {option}")
            found.append((head_ids[name], label_ids[label], float(weight)))
    return found


def shares_of(pairs: Pairs, n_head: int, n_classes: int) -> Tensor:
    """s_hc of each pair: (P,) float64.

    Raises MethodError for a pair out of place, one that is there twice, a weight outside (0, 1], and for no pair.
    """
    if not pairs:
        raise MethodError("the class map is empty: no class of the model leads to a class of the data set")
    total = [0.0] * n_head
    for head_id, label_id, weight in pairs:
        if not (0 <= head_id < n_head and 0 <= label_id < n_classes):
            raise MethodError(f"the class map leads from {head_id} to {label_id}, of {n_head} and {n_classes} classes")
        if not 0 < weight <= 1:
            raise MethodError(f"the class map leads from {head_id} to {label_id} with weight {weight:g}: give (0, 1]")
        total[head_id] += weight
    if len({pair[:2] for pair in pairs}) < len(pairs):
        raise MethodError("the class map leads from a class of the model to the same class twice: give each pair once")
    return torch.tensor([weight / max(1.0, total[head_id]) for head_id, _, weight in pairs], dtype=torch.float64)


class ClassMapped(nn.Module):
    """A network whose head has H classes of its own, as one of the data set's K classes.

    Frames (N, C, T, H, W) -> log p (N, K), p summing to 1; -inf for a class that no head class leads to.
    """

    def __init__(self, model: nn.Module, n_head: int, n_classes: int, pairs: Pairs) -> None:
        """`model` answers with logits (N, n_head).  Raises MethodError as `shares_of` does."""
        super().__init__()
        self.model, self.n_head, self.n_classes = model, n_head, n_classes
        self._log_shares = shares_of(pairs, n_head, n_classes).log().float()  # (P,), as are the next two
        self._head_ids, self._label_ids = torch.tensor([pair[:2] for pair in pairs]).T.contiguous()
        self._total, self._n_answers = torch.zeros((), dtype=torch.float64), 0  # of what was left out

    def _move(self, device: torch.device) -> None:
        """Follow the network to its device.  A tensor of inference mode could not go into a step."""
        with torch.inference_mode(False):
            self._log_shares, self._head_ids, self._label_ids = (
                one.to(device) for one in (self._log_shares, self._head_ids, self._label_ids)
            )

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, C, T, H, W) -> log p (N, K).  Raises MethodError where the network does not answer logits
        (N, H).
        """
        return self.mapped(self.model(frames), len(frames))

    def mapped(self, answer: object, n_clips: int | None = None) -> Tensor:
        """The network's answer, logits (N, H) -> log p (N, K); what is left out is counted."""
        logits = check_logits(answer, n_clips, self.n_head, self._get_name(), OPTION)
        if logits.device != self._log_shares.device:
            self._move(logits.device)
        log_p = logits.log_softmax(1)
        sums = self._summed(log_p[:, self._head_ids] + self._log_shares.to(log_p))
        log_total = sums.logsumexp(1, keepdim=True)
        self._total = self._total + (1 - log_total.detach().exp()).clamp(0, 1).mean().double()
        self._n_answers += 1
        return sums - log_total

    def _summed(self, log_terms: Tensor) -> Tensor:
        """log of the sum of exp within each class: (N, P) -> (N, K); -inf, without a gradient, for a sum of 0."""
        shape, places = (len(log_terms), self.n_classes), self._label_ids.expand(len(log_terms), -1)
        most = log_terms.new_full(shape, -math.inf).scatter_reduce(1, places, log_terms.detach(), "amax")
        most = most.masked_fill(most == -math.inf, 0)
        terms = (log_terms - most.gather(1, places)).exp()
        sums = log_terms.new_zeros(shape).scatter_add(1, places, terms)
        nothing = sums == 0
        return (sums.masked_fill(nothing, 1).log() + most).masked_fill(nothing, -math.inf)

    def begin(self) -> None:
        """Count what is left out from here on."""
        self._total, self._n_answers = torch.zeros((), dtype=torch.float64), 0

    def left_out(self) -> float:
        """The mean probability of what maps to nothing, over all answers since `begin`; 0 without any."""
        return float(self._total) / max(1, self._n_answers)

    def blocks(self) -> list[Block]:
        """The network's own, the last with the class map; [] where it has none."""
        return blocks_around(self.model, None, self.mapped)

    def alignment_layers(self) -> list[str]:
        """The network's own choice, else all its norm layers."""
        return [f"model.{name}" for name in moments.norm_layers(self.model)]

    def _get_name(self) -> str:
        """What errors call this: the network's own class."""
        return self.model._get_name()


def between(
    model: nn.Module, classes: Sequence[str], model_classes: Sequence[str], class_map: Leads | None,
    prepare: Callable[[Tensor], Any] | None, read: Callable[[Any], Tensor] | None, layers: Sequence[str],
) -> nn.Module:  # fmt: skip
    """The model with what lies between it and a method, as `adapt.wrap` is told; the model itself for nothing.

    Raises MethodError for one of `model_classes` and `class_map` without the other, or a map that fits no two lists.
    """
    if bool(model_classes) != (class_map is not None):
        raise MethodError("model_classes and class_map go together: give both, or neither for a head of your classes")
    network, head = model, model_classes or classes
    if prepare is not None or read is not None or layers:
        network = Network(model, len(head), prepare, read, layers, OPTION if model_classes else "classes")
    if class_map is None:
        return network
    return ClassMapped(network, len(head), len(classes), pairs_of(class_map, head, classes))
