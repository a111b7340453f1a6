"""Mean +- sd over seeds, from the run folders themselves: python tools/seeds.py runs/base-* runs/small-*

Runs that differ in nothing but the seed are one row. The seed to ship is the one nearest the median on validation
(the lower seed if two are as near): the test score is reported, and chooses nothing.
"""

import argparse
import dataclasses
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelstm.contract import Score
from edgelstm.errors import CheckpointError, EdgeLstmError
from edgelstm.training.checkpoint import Checkpoint, load_checkpoint


@dataclass(frozen=True)
class Run:
    """One finished run."""

    seed: int
    validation: Score
    test: Score


def finished_run(folder: Path) -> tuple[Checkpoint, Run]:
    """The run of a folder. Raises CheckpointError if it has not been trained to its end."""
    checkpoint = load_checkpoint(folder)
    if checkpoint.validation is None or checkpoint.test is None:
        raise CheckpointError(
            f"{folder} is not a finished run", found=f"epoch {checkpoint.epoch} and no test score",
            expected=f"{checkpoint.train.epochs} epochs", fix="go on with `edgelstm train --resume`",
        )  # fmt: skip
    return checkpoint, Run(checkpoint.train.seed, checkpoint.validation, checkpoint.test)


def grouped(folders: Sequence[Path]) -> dict[str, list[Run]]:
    """Label -> runs by seed. The label is the model's name and whatever else tells the groups apart.

    Raises CheckpointError if a run is not finished or a seed comes twice in a group.
    """
    groups: dict[str, list[Run]] = defaultdict(list)
    settings: dict[str, dict[str, Any]] = {}
    folder_of: dict[tuple[str, int], Path] = {}
    for folder in folders:
        checkpoint, run = finished_run(folder)
        train = {key: value for key, value in dataclasses.asdict(checkpoint.train).items() if key != "seed"}
        values = {"model": checkpoint.name, **dataclasses.asdict(checkpoint.config), **train}
        key = repr(values)
        if (key, run.seed) in folder_of:
            raise CheckpointError(
                f"{folder} and {folder_of[key, run.seed]} are the same run", found=f"seed {run.seed} twice",
                fix="name each run once",
            )  # fmt: skip
        folder_of[key, run.seed] = folder
        settings[key] = values
        groups[key].append(run)
    named = {
        key: _label(values, [one for one in settings.values() if one["model"] == values["model"]])
        for key, values in settings.items()
    }
    return {named[key]: sorted(runs, key=lambda run: run.seed) for key, runs in groups.items()}


def median_seed(runs: Sequence[Run]) -> int:
    """The seed whose validation score is nearest the median; of several the lowest."""
    median = statistics.median(run.validation.n_right for run in runs)
    return min(runs, key=lambda run: (abs(run.validation.n_right - median), run.seed)).seed


def spread(scores: Sequence[Score]) -> str:
    """Mean +- sample standard deviation (n - 1) in per cent."""
    shares = [100 * score.accuracy for score in scores]
    deviation = f"{statistics.stdev(shares):.3f}" if len(shares) > 1 else "?"
    return f"{statistics.fmean(shares):.3f} +- {deviation} %"


def report(folders: Sequence[Path]) -> str:
    """Markdown: a row a model, and below it each seed with its counts."""
    groups = grouped(folders)
    lines = ["| model | seeds | validation | test | ship seed |", "|---|---|---|---|---|"]
    for label, runs in groups.items():
        columns = [spread([getattr(run, split) for run in runs]) for split in ("validation", "test")]
        lines.append(f"| {label} | {len(runs)} | {columns[0]} | {columns[1]} | {median_seed(runs)} |")
    lines += ["", "| model | seed | validation | test |", "|---|---|---|---|"]
    lines += [
        f"| {label} | {run.seed} | {run.validation} | {run.test} |" for label, runs in groups.items() for run in runs
    ]
    return "\n".join(lines)


def _label(values: dict[str, Any], alike: list[dict[str, Any]]) -> str:
    """The model's name, and the settings in which others of that name differ."""
    differing = [name for name in values if len({repr(other[name]) for other in alike}) > 1]
    return ", ".join([values["model"], *(f"{name} {_short(values[name])}" for name in differing)])


def _short(value: Any) -> str:
    """A setting in a few characters: sha256 sums are cut."""
    if isinstance(value, list | tuple):
        return "+".join(_short(one) for one in value) or "none"
    return value[:8] if isinstance(value, str) and len(value) == 64 else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_FOLDER", help="run folders, or checkpoint files")
    args = parser.parse_args()
    try:
        print(report(args.runs))
    except EdgeLstmError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
