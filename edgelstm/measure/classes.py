"""What a score hides: how sure it is, which classes suffer, and which are taken for which."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgelstm.contract import Labels, Logits, Score


@dataclass(frozen=True)
class ClassReport:
    """Answers to labelled sequences, class by class."""

    score: Score
    interval: tuple[float, float]
    """Exact 95 % interval of the accuracy, 0 to 1 (C. Clopper and E. Pearson, Biometrika 26, 1934)."""
    macro_f1: float
    """Mean over the classes that occur or are answered of 2 right / (2 right + wrongly given + missed)."""
    confusion: tuple[tuple[int, ...], ...]
    """How many of class i (row) were taken for class j (column)."""
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, logits: Logits, labels: Labels, class_names: tuple[str, ...]) -> "ClassReport":
        """Count (N, classes) logits against (N,) labels."""
        n_classes, found = len(class_names), logits.argmax(1)
        confusion = np.zeros((n_classes, n_classes), np.int64)
        np.add.at(confusion, (labels, found), 1)
        right, given, there = confusion.diagonal(), confusion.sum(0), confusion.sum(1)
        occurs = given + there > 0
        f1 = 2 * right[occurs] / (given + there)[occurs]
        score = Score.of(logits, labels)
        table = tuple(tuple(row) for row in confusion.tolist())
        return cls(score, exact_interval(score), float(f1.mean()), table, class_names)

    def confused(self) -> list[tuple[str, str, int]]:
        """(class, what it was taken for, how often), the most frequent first."""
        found = [
            (count, i, j) for i, row in enumerate(self.confusion) for j, count in enumerate(row) if i != j and count
        ]
        ordered = sorted(found, key=lambda one: (-one[0], *one[1:]))
        return [(self.class_names[i], self.class_names[j], count) for count, i, j in ordered]


def exact_interval(score: Score, level: float = 0.95) -> tuple[float, float]:
    """The accuracies that so many right answers do not refute, each side at (1 - level) / 2."""
    k, n, tail = score.n_right, score.n, (1 - level) / 2
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    chosen, some = factorials[n] - factorials - factorials[::-1], np.arange(n + 1)

    def at_most(count: int, p: float) -> float:
        logs = chosen + some * math.log(p) + (n - some) * math.log1p(-p)
        return float(np.exp(logs[: count + 1]).sum())

    low = 0.0 if k == 0 else _root(lambda p: 1 - at_most(k - 1, p) - tail)
    high = 1.0 if k == n else _root(lambda p: tail - at_most(k, p))
    return low, high


def _root(increasing: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if increasing(middle) > 0 else (middle, high)
    return (low + high) / 2
