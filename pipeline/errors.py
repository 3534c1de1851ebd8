"""The errors that a user can cause.  Each message is one line that says what was wrong, where, and what to do."""


class EarshotError(Exception):
    """Base of every expected failure: a stage prints it as one line and exits with 1."""


class CacheError(EarshotError):
    """A file of the cache is missing, broken, or of another schema or label order."""


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


class OptionsError(EarshotError):
    """A setting is out of its range, or two settings do not go together."""
