"""The errors that a user can cause, of both packages.  Each message is one line: what, which value, where, what to do."""


class EarshotError(Exception):
    """Base of every expected failure: a command prints it as one line and exits with 1."""


class CacheError(EarshotError):
    """A file of the cache is missing, broken, or of another schema or label order."""


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
