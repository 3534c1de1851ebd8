"""What to run on a data set, by what can be seen of it without labels: the rule behind `python -m adapt.check` (ours).

In this order; the first that holds decides.

1. `none`: no class has a sound in the map, or fewer than 5 % of the clips are heard.  Fusion leaves a clip alone in
   which nothing is heard, so at most that share of the answers could change.
2. `none`: the source model answers nearly the same to every clean clip (information below 0.05 of log K).  There is
   nothing for the sound to agree with, and nothing to adapt: the model is the first thing to look at.
3. `trusted`: fewer than 10 of the clips looked at are heard.  Whether the sounds belong to the pictures is then open,
   and trusted fusion finds out on the way.
4. `none`: the pictures contradict the sounds (mean trust below 0.2, or below 0.5 where they agree no more often than
   they would by chance): another file's sound, music, or a wrong map.
5. `full`: they agree (mean trust of 0.5 or more), the network can be aligned, and a clip's cost fits the budget, where
   one is given: `audio`, which adapts by picture and sound, fused by `trusted`.
6. `plain`: adapting is not to be had, and there is nothing to learn about the sounds: mean trust of 0.9 or more, and
   no class is contradicted.  The source model's answers, plainly fused.
7. `trusted`: everything else.  The source model's answers, in which each class's sound counts as far as it is trusted.

Trust is that of adapt/fusion/trusted.py after the clean clips.  The thresholds are choices of this project, set before
any data was looked at; what they cannot see is how the streams to come will be corrupted.
"""

from dataclasses import dataclass

FEW_HEARD = 0.05  # share of all clips
LITTLE_INFORMATION = 0.05  # share of log K
ENOUGH = 10  # heard clips among those looked at
CONTRADICTED, AGREED, SURE = 0.2, 0.5, 0.9  # mean trust
COMMANDS = {"none": "", "plain": "source+plain", "trusted": "source+trusted", "full": "audio"}  # --method


@dataclass(frozen=True)
class Findings:
    """What was seen, without labels."""

    n_classes: int
    n_mapped: int  # classes with a sound in the map
    n_clips: int  # of the split
    n_heard: int  # of them, those in which something is heard
    n_seen: int  # clean clips that were looked at
    n_seen_heard: int  # of them, those in which something is heard
    information: float  # of the source model's answers to them, as a share of log K
    trust: float  # mean over the heard ones, in [0, 1]
    agree: float  # share of them on which picture and sound agree
    by_chance: float  # that share, if pictures and sounds had nothing to do with each other
    contradicted: tuple[str, ...]  # classes whose sound the pictures contradict
    can_align: bool  # there are source statistics, or batch norm buffers to take them from
    ms: float | None  # of the full method on a clip; None where it was not measured
    budget_ms: float = 0.0  # what a clip may take; 0: anything


@dataclass(frozen=True)
class Advice:
    """What to run, and why."""

    run: str  # none, plain, trusted or full
    why: str  # one sentence


def recommend(found: Findings) -> Advice:
    """The first rule of the module's list that holds."""
    share = found.n_heard / found.n_clips if found.n_clips else 0.0
    fits = not found.budget_ms or (found.ms is not None and found.ms <= found.budget_ms)
    for run, holds, why in (
        ("none", found.n_mapped == 0, "no class has a sound in the map"),
        ("none", share < FEW_HEARD, f"only {100 * share:.1f} % of the clips are heard"),
        (
            "none",
            found.information < LITTLE_INFORMATION,
            "the source model answers nearly the same to every clean clip: look at the model first",
        ),
        (
            "trusted",
            found.n_seen_heard < ENOUGH,
            f"{found.n_seen_heard} heard clips are too few to say whether sounds and pictures belong together, which "
            "trusted fusion finds out on the way",
        ),
        (
            "none",
            found.trust < CONTRADICTED or (found.trust < AGREED and found.agree <= found.by_chance),
            "the pictures contradict the sounds: another file's sound, music, or a wrong map",
        ),
        (
            "full",
            found.trust >= AGREED and found.can_align and fits,
            "pictures and sounds agree, and the network can be adapted",
        ),
        (
            "plain",
            found.trust >= SURE and not found.contradicted,
            f"every class's sound can be trusted, and adapting is not to be had: {_why_not(found)}",
        ),
    ):
        if holds:
            return Advice(run, why)
    if found.trust < AGREED:
        return Advice("trusted", "pictures and sounds agree in part: each class's sound counts as far as it is trusted")
    return Advice(
        "trusted", f"the sounds of some classes are doubtful, and adapting is not to be had: {_why_not(found)}"
    )


def _why_not(found: Findings) -> str:
    """Why the full method is out of reach."""
    if not found.can_align:
        return "there are no source statistics, and no batch norm to take them from"
    if found.ms is None:
        return "what it costs was not measured"
    return f"it takes {found.ms:.0f} ms a clip, {found.budget_ms:.0f} are given"
