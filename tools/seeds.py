"""Mean +- sd over seeds, from the run folders themselves: python tools/seeds.py runs/models/base-? runs/models/small-?

Runs that differ in nothing but the seed are one row. The seed to ship is the one nearest the median on validation
(the lower seed if two are as near): the test score is reported, and chooses nothing.
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import markdown

from edgelstm.contract import Score
from edgelstm.errors import CheckpointError, EdgeLstmError
from edgelstm.training.checkpoint import load_checkpoint

Scores = dict[int, tuple[Score, Score]]
"""Seed -> (validation, test)."""


def finished_run(folder: Path) -> tuple[dict[str, Any], int, tuple[Score, Score]]:
    """Settings, seed and scores of a run. Raises CheckpointError if it has not been trained to its end."""
    checkpoint = load_checkpoint(folder)
    if checkpoint.validation is None or checkpoint.test is None:
        raise CheckpointError(
            f"{folder} is not a finished run", found=f"epoch {checkpoint.epoch} and no test score",
            expected=f"{checkpoint.train.epochs} epochs", fix="go on with `edgelstm train --resume`",
        )  # fmt: skip
    settings = {"model": checkpoint.name} | dataclasses.asdict(checkpoint.config) | dataclasses.asdict(checkpoint.train)
    return settings, settings.pop("seed"), (checkpoint.validation, checkpoint.test)


def grouped(folders: Sequence[Path]) -> dict[str, Scores]:
    """Label -> scores by seed. The label is the model's name and whatever else tells the groups apart.

    Raises CheckpointError if a run is not finished or a seed comes twice in a group.
    """
    groups: list[tuple[dict[str, Any], Scores]] = []
    for folder in folders:
        settings, seed, scores = finished_run(folder)
        group = next((known for other, known in groups if other == settings), None)
        if group is None:
            groups.append((settings, group := {}))
        if seed in group:
            raise CheckpointError(f"{folder} is a run that was named before", found=f"seed {seed} twice",
                                  fix="name each run once")  # fmt: skip
        group[seed] = scores
    return {
        _label(settings, [other for other, _ in groups if other["model"] == settings["model"]]): dict(
            sorted(of.items())
        )
        for settings, of in groups
    }


def median_seed(validation: Mapping[int, Score]) -> int:
    """The seed whose validation score is nearest the median; of several the lowest."""
    median = statistics.median(score.n_right for score in validation.values())
    return min(sorted(validation), key=lambda seed: abs(validation[seed].n_right - median))


def spread(scores: Sequence[Score]) -> str:
    """Mean +- sample standard deviation (n - 1) in per cent."""
    shares = [100 * score.accuracy for score in scores]
    deviation = f"{statistics.stdev(shares):.3f}" if len(shares) > 1 else "?"
    return f"{statistics.fmean(shares):.3f} +- {deviation} %"


def report(folders: Sequence[Path]) -> str:
    """Markdown: a row a model, and below it each seed with its counts."""
    rows, seeds = [], []
    for label, scores in grouped(folders).items():
        validation, test = zip(*scores.values(), strict=True)
        ship = median_seed(dict(zip(scores, validation, strict=True)))
        rows.append((label, len(scores), spread(validation), spread(test), ship))
        seeds += [(label, seed, *both) for seed, both in scores.items()]
    means = markdown(("model", "seeds", "validation", "test", "ship seed"), rows)
    return means + "\n\n" + markdown(("model", "seed", "validation", "test"), seeds)


def _label(settings: dict[str, Any], alike: list[dict[str, Any]]) -> str:
    """The model's name, and the settings in which others of that name differ."""
    differing = [name for name in settings if any(other[name] != settings[name] for other in alike)]
    return ", ".join([settings["model"], *(f"{name} {_short(settings[name])}" for name in differing)])


def _short(value: Any) -> str:
    """A setting in a few characters: sha256 sums are cut."""
    if isinstance(value, list | tuple):
        return "+".join(_short(one) for one in value) or "none"
    return value[:8] if isinstance(value, str) and len(value) == 64 else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_FOLDER", help="run folders, or checkpoint files")
    try:
        print(report(parser.parse_args().runs))
    except EdgeLstmError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
