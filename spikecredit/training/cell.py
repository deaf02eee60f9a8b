"""One cell of a comparison: one seed of one condition, trained to its end from wherever it stands."""

import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spikecredit.data import DataSource, ImageData
from spikecredit.training.checkpoint import CheckpointError
from spikecredit.training.document import ConfigError
from spikecredit.training.experiment import REGISTRIES, Experiment
from spikecredit.training.loop import Diverged, Interrupted, Trainer
from spikecredit.training.run import Run, RunError, environment
from spikecredit.training.schema import load
from spikecredit.training.summary import report_line, run_record

FAILURE = "failure.txt"
"""In a cell's folder: the traceback of an error that nobody foresaw."""

Tell = Callable[[str], None]
"""Takes a line for the user."""

Progress = Callable[[int], Callable[[int, int, int, Callable[[], float]], None] | None]
"""The trainer's progress callback, or None, for so many training images."""


@dataclass(frozen=True)
class Cell:
    """One seed of one condition."""

    label: str
    seed: int
    folder: Path
    resolved: dict[str, Any]

    def finished(self) -> bool:
        return Run(self.folder).result() is not None

    @property
    def name(self) -> tuple[str, int]:
        return self.label, self.seed


class Data:
    """Data sets by their settings, each loaded once and kept on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._loaded: dict[DataSource, ImageData] = {}

    def of(self, source: DataSource) -> ImageData:
        """The data of a source.

        Raises:
            RunError: it cannot be loaded.
        """
        if source not in self._loaded:
            try:
                self._loaded[source] = source.load().to(self.device)
            except (ValueError, OSError, ImportError) as error:
                raise RunError(f"data: {error}") from error
        return self._loaded[source]


def experiment_of(resolved: dict[str, Any]) -> Experiment:
    """The experiment of a resolved configuration."""
    return load(Experiment, resolved, REGISTRIES).value


def run_cell(cell: Cell, data: Data, tell: Tell, progress: Progress) -> str | None:
    """Train a cell from wherever it stands; returns why it has no result, None if it has one.

    Raises:
        Interrupted: a signal came; a checkpoint is written.
    """
    run = Run(cell.folder)
    try:
        with warnings.catch_warnings(), _sole(run):  # a new context: what one cell was warned of, the next is too
            warnings.showwarning = lambda message, *_: tell(f"warning: {cell.label}, seed {cell.seed}: {message}")
            if cell.finished():
                return None  # by another process, meanwhile
            experiment = experiment_of(cell.resolved)
            images = data.of(experiment.data)
            trainer = Trainer(
                experiment,
                images,
                run,
                log=lambda line: None,
                progress=progress(len(images.train)),
            )
            fresh = not run.config.exists()
            if fresh:
                run.start(cell.resolved)
            env = environment(data.device)
            run.record_environment(env)
            if not fresh:
                trainer.restore()
            trainer.fit()
            label = f"{cell.label}, seed {cell.seed}"
            report_line(run.folder / "report.html", label, [run_record(trainer, label, cell.resolved, env)])
            (run.folder / FAILURE).unlink(missing_ok=True)
    except (Diverged, CheckpointError, ConfigError, RunError, OSError) as error:
        return str(error)
    except Interrupted:
        raise
    except Exception as error:  # one broken cell must not cost the others
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / FAILURE).write_text(traceback.format_exc())
        return f"{type(error).__name__}: {error} (traceback in {run.folder / FAILURE})"
    return None


@contextmanager
def _sole(run: Run) -> Iterator[None]:
    """Refuse a cell that another process is training: two would spoil each other's checkpoints."""
    run.folder.mkdir(parents=True, exist_ok=True)
    if os.name != "posix":
        yield
        return
    import fcntl

    handle = os.open(run.folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RunError(f"another process is training {run.folder}") from error
    finally:
        os.close(handle)
