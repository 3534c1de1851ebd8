"""The allocator's setting, in a process of its own: it is for good."""

import subprocess
import sys

from tests.places import ROOT

CODE = """
import resource
import torch
from adapt.command import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(2**24).fill_(1)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

lost = faults()
assert keep_freed_memory()
faults()
print(faults() / lost)
"""


def test_memory_that_is_kept_is_not_fetched_from_the_system_again() -> None:
    """Page faults of the same work, as the system counts them."""
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.05
