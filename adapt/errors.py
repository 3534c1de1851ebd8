"""The errors that a user can cause, of both packages.  Each message is one line: what, which value, where, what to
do.
"""

import errno

# No room, no right, no file or memory left: the machine's affair, which no command takes for a fault of a file.
OF_THE_MACHINE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE,
    errno.ENOMEM,
)  # fmt: skip


def is_of_the_machine(error: BaseException) -> bool:
    """Whether a file could not be read or written for a reason that lies not in the file: a command ends then."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in OF_THE_MACHINE)


class EarshotError(Exception):
    """Base of every expected failure: a command prints it as one line and exits with 1."""


class StoppedError(EarshotError):
    """A command that was asked to stop by Ctrl-C has done so in order; it says what is left to do."""


class NoSpaceError(EarshotError):
    """A disk has less room than a command needs."""


class CacheError(EarshotError):
    """A file of the cache is missing, broken, or of another schema or label order."""


class BusyError(EarshotError):
    """Another process makes the same files; the message says which, since when."""


class AdaptError(EarshotError):
    """Base of what goes wrong in the adapter."""


class VideoError(AdaptError):
    """A video cannot be read (a stage keeps such a clip as a row)."""


class CheckpointError(AdaptError):
    """A checkpoint or its statistics do not fit the model, the labels or each other."""


class MethodError(AdaptError):
    """A method cannot work with this model or input."""


class TooManyFailedError(AdaptError):
    """More of a stream's clips cannot be read than the user allows."""


class DatasetError(EarshotError):
    """A data set's folder does not hold what its recipe expects."""


class DecodeError(EarshotError):
    """ffmpeg cannot be run at all (a clip that fails is a row with a status instead)."""


class TaggerError(EarshotError):
    """A tagger, its checkpoint or its labels cannot be used."""


class MapperError(EarshotError):
    """A label map cannot be built: replies missing, stale, or not valid."""


class QueryError(EarshotError):
    """A SQL query that the user wrote does not run."""


class OntologyError(EarshotError):
    """The ontology of sounds is missing, broken, or lacks a sound."""


class StageError(EarshotError):
    """A stage that a command runs as a command of its own has failed, and has said why."""


class OptionsError(EarshotError):
    """A setting is out of its range, or two settings do not go together."""
