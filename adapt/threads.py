"""How OpenMP's threads wait.  It is read from the environment when torch is loaded, so this module imports nothing."""
import os


def be_passive() -> None:
    """Let idle threads sleep instead of spin, unless the user has set OMP_WAIT_POLICY: for a program's first lines, before torch is imported.

    On two cores shared with other work that was worth about 2 x.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
