"""Every exception a user can cause. Each message is one sentence or two: what is wrong, where, and the remedy."""


class SpfError(Exception):
    """Base of all errors that are shown to users as they are, without a traceback."""


class InvalidInput(SpfError):
    """A field of a request or a configuration has a value that cannot be used. `field` names it."""

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field


class ModelNotFound(SpfError):
    """A model preset, or the files it points to, do not exist or are damaged."""


class CustomizationError(SpfError):
    """A customization is missing, damaged, or does not belong to the model it is loaded on."""


class MemoryShort(SpfError):
    """A portrait cannot be drawn beside a training run, which has the memory."""


class DataError(SpfError):
    """A picture folder cannot be trained on. `problems` lists every finding, one line each."""

    def __init__(self, message: str, problems: list[str] | None = None):
        self.problems = problems or []
        super().__init__("\n  ".join([message, *self.problems]))


class TrainingError(SpfError):
    """Training cannot start or go on, for example because a loss became NaN."""


class AlreadyUnderWay(TrainingError):
    """Another run, which is not done, teaches the same customization."""


class DiskFull(TrainingError):
    """A file of a run does not fit the disk. What was there before is as it was."""


class CheckpointError(TrainingError):
    """A checkpoint is missing or damaged, or a file of it cannot be written."""


class ResumeRefused(SpfError):
    """A run cannot go on as asked, because what it was started with is no longer the same."""


class Cancelled(SpfError):
    """The caller asked to stop."""


class Paused(Cancelled):
    """The caller asked to stop and to go on later; where the work stands is saved."""
