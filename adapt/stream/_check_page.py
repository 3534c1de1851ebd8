"""The page of `python -m adapt.check`: its report as text."""

from collections.abc import Mapping, Sequence
from typing import Any

NAMED = 20  # classes of a list


def page(said: Mapping[str, Any]) -> str:
    """The report as text."""
    classes_, clips, clean, costs = said["classes"], said["clips"], said["clean"], said["cost"]
    n_mapped, n_heard = len(classes_["with_sound"]), clean["n_heard"]
    status = ", ".join(f"{name} {n}" for name, n in clips["status"].items())
    lines = [
        f"Will sound help on {said['dataset']}?  Split {said['split']}, no label was read.",
        "",
        f"Classes with a sound in the map: {n_mapped} of {classes_['n']}",
        *([f"  without: {_names(classes_['without'])}"] if classes_["without"] else []),
        f"Clips in which something is heard: {_share(clips['n_heard'], clips['n'])}",
        f"  sound tracks: {status}",
        f"Clean clips looked at: {clean['n_seen']}, heard {n_heard}"
        + (f", {clean['n_failed']} more could not be read" if clean["n_failed"] else ""),
        f"  picture and sound agree on {_share(clean['n_agree'], n_heard)}; by chance "
        f"{100 * clean['agree_by_chance']:.0f} %",
        f"  trust in the sound {clean['trust']:.2f}; information in the picture {clean['information']:.2f} of log K",
        *([f"  contradicted by the pictures: {_names(clean['contradicted'])}"] if clean["contradicted"] else []),
        f"Cost on {costs['device']}: the source model with fusion {_cost(costs['source_ms'], clips['n'])}",
        f"  the full method {_cost(costs['full_ms'], clips['n'])}",
        "",
        f"Recommendation: {said['recommendation']}",
        f"  {said['why']}",
        *([f"  {said['command']}"] if said["command"] else []),
    ]
    return "\n".join(lines)


def _share(n: int, of: int) -> str:
    return f"{n} of {of}" + (f" ({100 * n / of:.1f} %)" if of else "")


def _names(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _cost(ms: float | None, n_clips: int) -> str:
    return "cannot adapt this network" if ms is None else f"{ms:.0f} ms a clip, {ms * n_clips / 60000:.1f} min for all"
