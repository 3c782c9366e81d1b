"""What a user can get wrong, one class each. The command line prints the message alone and exits
with code 2."""


class FlashnasError(Exception):
    """Base of every error that a user can cause; its message is one line: place, rule, value.

    Example:
        >>> import flashnas as fn
        >>> try:
        ...     fn.Architecture.parse("2048: d q")
        ... except fn.FlashnasError as error:
        ...     print("operator must be one of" in str(error))
        True
    """


class OperatorError(FlashnasError):
    """An unknown operator or an option that it does not take."""


class ArchitectureError(FlashnasError):
    """A notation, preset or file that does not describe an architecture."""


class ConfigError(FlashnasError):
    """A YAML file or option with a wrong key, type or value."""


class SpaceError(ConfigError):
    """A search space that breaks a rule of its template."""


class WorkloadError(ConfigError):
    """A workload or figure that does not exist."""


class TableError(FlashnasError):
    """A latency table that is missing, damaged or inconsistent."""


class MissingRowsError(TableError):
    """A question that the latency table cannot answer."""


class BudgetError(FlashnasError):
    """A budget that no architecture of the space meets."""


class PluginError(FlashnasError):
    """An installed package whose entry point cannot be used."""


class CorpusError(FlashnasError):
    """Text that cannot be read or is too short to train on."""


class RunError(FlashnasError):
    """A run folder that cannot be created, continued or reported."""


class CandidateError(FlashnasError):
    """A candidate that failed while training; recorded in the run, never ends it."""


class CandidateMemoryError(CandidateError):
    """A candidate for which memory did not suffice; it is tried once more, alone, before that is a
    result.
    """


class DeviceMemoryError(FlashnasError):
    """What is to be timed needs more memory than the device has; it is left out."""


class DeviceError(ConfigError):
    """A device that a recipe needs and that this machine does not have."""


class WorkerError(FlashnasError):
    """A worker that cannot work for any candidate; it ends the search."""


class WeightsError(FlashnasError):
    """Weights or a checkpoint that are missing, damaged or of another architecture."""


class ExportError(FlashnasError):
    """A network that a target format cannot hold, or an export that does not compute what the
    network computes."""
