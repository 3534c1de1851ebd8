"""Where a training run stands, in a file beside the checkpoint that outlives a kill: the next run goes on from it and
ends with the same bytes.

The file says which run it is of.  What another run left is never taken up, and that is said.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapt.errors import CheckpointError
from adapt.source import checkpoints

log = logging.getLogger("train")


class Progress:
    """The progress file of one run."""

    def __init__(self, path: Path, run: Mapping[str, str]) -> None:
        """`run` is all that decides what the run ends with, by name: options, and hashes of what it reads."""
        self.path, self.run = path, dict(run)

    def write(self, state: Mapping[str, Any]) -> None:
        """Save `state` under a temporary name, then rename: a kill leaves the old file or the new one."""
        checkpoints.save(self.path, {"run": self.run, **state})

    def read(self) -> dict[str, Any] | None:
        """What `write` saved last; None, and why, where there is nothing that this run could go on from."""
        if not self.path.exists():
            return None
        try:
            saved = checkpoints.load(self.path, "train")
            theirs = saved.pop("run")
        except (CheckpointError, KeyError) as error:
            log.warning("%s cannot be read (%s): training starts anew", self.path, error)
            return None
        if changed := [name for name in {**self.run, **theirs} if theirs.get(name) != self.run.get(name)]:
            name = changed[0]
            log.info(
                "%s is of another run (%s was %s, is %s): training starts anew",
                self.path,
                name,
                theirs.get(name),
                self.run.get(name),
            )
            return None
        return saved

    def remove(self) -> None:
        """The run has ended."""
        self.path.unlink(missing_ok=True)
