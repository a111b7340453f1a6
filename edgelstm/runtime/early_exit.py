"""Early exit: when an answer is settled before the last row, which rule to take, and what it costs."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgelstm.contract import EarlyRule, Labels, Logits, Score
from edgelstm.runtime.parity import MEASURABLE, McNemar, mcnemar

CONFIDENCES = (*(round(0.5 + 0.005 * step, 3) for step in range(100)), 0.997, 0.998, 0.999, 0.9995, 0.9999, 1.0)
"""What a rule may ask for; the last, 1, is out of reach but for rounding, so one rule always loses nothing."""
STABLE_STEPS = tuple(range(1, 7))
"""How many steps in a row a rule may ask for."""
EVERY_ROW = EarlyRule(1.0, 10**6)
"""Decides nothing before the last row."""

StepLogits = npt.NDArray[np.float32]
"""(N, steps, classes): the logits of N pictures after each step."""

Streams = npt.NDArray[np.int64] | slice
Last = bool | npt.NDArray[np.bool_]


def confidences(logits: npt.NDArray[np.float32], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """(..., classes) logits -> (...) the probability of the first class."""
    highest = logits.max(-1, keepdims=True).astype(np.float64)
    shares: npt.NDArray[np.float64] = 1 / np.exp((logits - highest) / temperature).sum(-1)
    return shares


class Decider:
    """A rule at work on ``n`` streams at once: tell it each step's logits, it tells which are decided."""

    def __init__(self, rule: EarlyRule, n: int) -> None:
        self.rule = rule
        self.held = np.zeros(n, np.int64)
        """Steps for which the first class has held so far."""
        self.first = np.full(n, -1, np.int64)
        """The first class after the last step; -1 before any."""
        self.decision = np.full(n, -1, np.int64)
        """The class that was decided on; -1 as long as none is."""

    def update(self, logits: Logits, streams: Streams = slice(None), *, last: Last = False) -> None:
        """One step of the streams: (n, classes) logits. The ``last`` step decides what is still open."""
        self.advance(logits.argmax(1), confidences(logits, self.rule.temperature), streams, last=last)

    def advance(
        self,
        first: npt.NDArray[np.int64],
        confidence: npt.NDArray[np.float64],
        streams: Streams = slice(None),
        *,
        last: Last = False,
    ) -> None:
        """The same from the first classes (n,) and their probabilities (n,)."""
        held = np.where(first == self.first[streams], self.held[streams] + 1, 1)
        held = np.where(confidence >= self.rule.confidence, held, 0)
        settled = (held >= self.rule.n_stable) | last
        decision = self.decision[streams]
        self.decision[streams] = np.where((decision < 0) & settled, first, decision)
        self.held[streams], self.first[streams] = held, first

    def reset(self, streams: Streams = slice(None)) -> None:
        """Forget these streams' pictures."""
        self.held[streams], self.first[streams], self.decision[streams] = 0, -1, -1


@dataclass(frozen=True)
class Stops:
    """Where a rule stops on N pictures."""

    steps: npt.NDArray[np.int64]
    """(N,) steps read until the decision."""
    classes: npt.NDArray[np.int64]
    """(N,) the decision."""

    def score(self, labels: Labels) -> Score:
        """Right decisions."""
        return Score(int((self.classes == labels).sum()), len(labels))

    def mean_rows(self, rows_per_step: int) -> float:
        """Rows read, on average."""
        return float(self.steps.mean()) * rows_per_step


def stops(first: npt.NDArray[np.int64], confidence: npt.NDArray[np.float64], rule: EarlyRule) -> Stops:
    """Apply a rule to the first classes (N, steps) and their probabilities (N, steps)."""
    n, n_steps = first.shape
    decider, steps = Decider(rule, n), np.full(n, n_steps, np.int64)
    for step in range(n_steps):
        decider.advance(first[:, step], confidence[:, step], last=step == n_steps - 1)
        steps = np.where((decider.decision >= 0) & (steps > step), step + 1, steps)
    return Stops(steps, decider.decision)


def choose_rule(logits: StepLogits, labels: Labels, rows_per_step: int = 1, temperature: float = 1.0) -> EarlyRule:
    """The rule that reads the fewest rows of those that get as many sequences right as reading every row.

    To be asked with validation sequences, never with those that the result is reported on.
    """
    first, confidence = logits.argmax(2), confidences(logits, temperature)
    full = Score.of(logits[:, -1], labels)
    # asks for more steps than there are, so it always is one that loses nothing
    found = [EarlyRule(1.0, first.shape[1], float(first.shape[1] * rows_per_step), full, temperature)]
    for n_stable in STABLE_STEPS:
        lossless: list[EarlyRule] = []
        for wanted in reversed(CONFIDENCES):  # laxer and laxer, until one loses something
            stopped = stops(first, confidence, EarlyRule(wanted, n_stable))
            score = stopped.score(labels)
            if score.n_right < full.n_right:
                break
            mean_rows = round(stopped.mean_rows(rows_per_step), 3)
            lossless.append(EarlyRule(wanted, n_stable, mean_rows, score, temperature))
        if lossless:
            # Of many rules tried on the same sequences the laxest that loses nothing is so partly by luck:
            # the one before it, a little more confident, is taken.
            found.append(lossless[max(0, len(lossless) - 2)])
    return min(found, key=lambda rule: rule.mean_rows or 0.0)


@dataclass(frozen=True)
class CurvePoint:
    """All pictures stopped after the same number of rows."""

    rows: int
    score: Score
    """Right answers, were every picture decided here."""
    n_decided: int
    """Pictures that the rule has decided by here."""
    n_decided_right: int


@dataclass(frozen=True)
class EarlyReport:
    """What deciding early saves and costs on some pictures."""

    rule: EarlyRule
    rows: int
    """Rows of a whole picture."""
    full: Score
    """Right answers when every row is read."""
    early: Score
    """Right answers by the rule."""
    mean_rows: float
    """Rows that the rule reads, on average."""
    mcnemar: McNemar
    """The rule against reading every row."""
    curve: tuple[CurvePoint, ...]
    trade: tuple[tuple[float, Score], ...]
    """(mean rows, right answers) for other probabilities than the rule's, to see what they would cost."""

    @property
    def passed(self) -> bool:
        """No measurable loss."""
        return self.mcnemar.n_lost <= self.mcnemar.n_won or self.mcnemar.p_value >= MEASURABLE


def evaluate(logits: StepLogits, labels: Labels, rule: EarlyRule, rows_per_step: int = 1) -> EarlyReport:
    """Hold a rule against reading every row."""
    first, confidence = logits.argmax(2), confidences(logits, rule.temperature)
    found, n_steps = stops(first, confidence, rule), first.shape[1]
    right = found.classes == labels
    curve = []
    for step in range(1, n_steps + 1):
        decided, score = found.steps <= step, Score.of(logits[:, step - 1], labels)
        curve.append(CurvePoint(step * rows_per_step, score, int(decided.sum()), int((decided & right).sum())))
    others = (stops(first, confidence, replace(rule, confidence=wanted)) for wanted in CONFIDENCES)
    return EarlyReport(
        rule, n_steps * rows_per_step, curve[-1].score, found.score(labels), found.mean_rows(rows_per_step),
        mcnemar(first[:, -1] == labels, right), tuple(curve),
        tuple((other.mean_rows(rows_per_step), other.score(labels)) for other in others),
    )  # fmt: skip
