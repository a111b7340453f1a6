"""Draw MNIST digits as people photograph, scan and paint them, and count what a model reads right.

    python tools/hard_pictures.py --split test -n 100          # a table: right, confidence, calibration, no digits
    python tools/hard_pictures.py -n 20 -o hard                # the pictures: KIND/LABEL/NUMBER.png
    python tools/hard_pictures.py -n 8 --kind ruled --sheet ruled.png   # beside what the network saw

The same seed gives the same files. To tune, use --split train; test is for reporting.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from hard_kinds import KINDS, encode
from no_digits import NO_DIGIT

from edgelstm import Classifier, Prediction
from edgelstm.config import DEFAULT_MODEL, N_VALIDATION
from edgelstm.contract import Logits, in_batches
from edgelstm.data.mnist import load_mnist
from edgelstm.runtime.calibration import Shares, fit_temperature, probabilities
from edgelstm.runtime.classifier import NO_DIGIT as NONE
from edgelstm.show.contact_sheet import save_pairs

N_BINS = 10
CERTAIN = 0.9
"""Confidence from which a wrong answer is one that nobody would check."""
LOW = 0.8
"""Confidence below which an answer counts as doubtful in the table of what is no digit."""


def pictures(kind: str, split: str, n: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """``n`` labelled picture files of one kind; the same seed gives the same files."""
    digits = load_mnist(split)
    rng = np.random.default_rng([seed, *kind.encode()])
    which = np.flatnonzero(digits.labels == 7) if kind == "7 with a bar" else np.arange(len(digits))
    for i in rng.choice(which, n, replace=False):
        other = digits.sequences[rng.integers(len(digits))]
        label = int(digits.labels[i])
        yield label, encode(kind, label, digits.sequences[i], other, rng)


def no_digit_pictures(kind: str, split: str, n: int, seed: int) -> Iterator[bytes]:
    """``n`` picture files of one kind that show no digit, or several."""
    digits = load_mnist(split)
    rng = np.random.default_rng([seed, *kind.encode()])
    for _ in range(n):
        yield NO_DIGIT[kind](list(digits.sequences[rng.choice(len(digits), 5, replace=False)]), rng)


def read(classifier: Classifier, contents: list[bytes]) -> list[Prediction]:
    found = list(classifier.classify_many(contents))
    errors = [prediction.error for prediction in found if prediction.error]
    assert not errors, errors
    return found


def table(classifier: Classifier, args: argparse.Namespace) -> tuple[Logits, npt.NDArray[np.int64]]:
    """Per kind how many are read right, and how sure the model is of its right and its wrong answers.

    Returns the logits and the labels of all pictures in which ink was found.
    """
    n_right = n_all = 0
    pixels, labels = [], []
    print(
        f"{'kind':28}{'right':>10}{'':10}{'noted':>7}{'no digit':>9}{'wrong >= .9':>12}  {'sure of right, wrong':>20}"
    )
    for kind in args.kind or KINDS:
        made = list(pictures(kind, args.split, args.n, args.seed))
        found = read(classifier, [content for _, content in made])
        right = np.array([prediction.index == label for prediction, (label, _) in zip(found, made, strict=True)])
        sure = np.array([prediction.confidence or 0.0 for prediction in found])
        noted = sum(prediction.note is not None for prediction in found)
        accused = sum(NONE in (prediction.note or "") for prediction in found)
        certain = int((~right & (sure >= CERTAIN)).sum())
        seen = [(p.sequence, label) for p, (label, _) in zip(found, made, strict=True) if not p.abstained]
        pixels += [own for own, _ in seen]
        labels += [label for _, label in seen]
        n_right, n_all = n_right + int(right.sum()), n_all + len(right)
        parts = "  ".join(f"{sure[part].mean():.2f}" if part.any() else "   -" for part in (right, ~right))
        score = f"{right.sum()}/{len(right)}"
        print(
            f"{kind:28}{score:>10}{100 * right.mean():8.1f} %{noted:7d}{accused:9d}{certain:12d}  {parts:>20}",
            flush=True,
        )
    print(f"{'all':28}{f'{n_right}/{n_all}':>10}{100 * n_right / n_all:8.1f} %")
    return in_batches(classifier.runner, np.stack(pixels), 256), np.array(labels)


@dataclass(frozen=True)
class ReliabilityBin:
    """The answers whose confidence lies in (low, high]."""

    low: float
    high: float
    n: int
    confidence: float
    """Mean confidence of its answers, 0 to 1; nan if there are none."""
    accuracy: float
    """Share of them that are right; nan if there are none."""


@dataclass(frozen=True)
class Reliability:
    """How far confidence and accuracy are apart."""

    bins: tuple[ReliabilityBin, ...]
    ece: float
    """Expected calibration error (Naeini and others 2015): mean |confidence - accuracy| over the answers, by bin."""
    nll: float
    """Mean negative log probability of the true class, nats."""
    n: int


def reliability(shares: Shares, labels: npt.NDArray[np.integer], n_bins: int = N_BINS) -> Reliability:
    """Bins of equal width over (N, classes) probabilities and (N,) labels; ValueError if N is 0."""
    if not len(labels):
        raise ValueError("the reliability of no answers")
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    true = shares[np.arange(len(labels)), labels.astype(np.int64)]
    which = np.minimum(np.ceil(confidence * n_bins).astype(int) - 1, n_bins - 1)
    bins = []
    for i in range(n_bins):
        own = which == i
        means = (float(confidence[own].mean()), float(right[own].mean())) if own.any() else (np.nan, np.nan)
        bins.append(ReliabilityBin(i / n_bins, (i + 1) / n_bins, int(own.sum()), *means))
    ece = sum(part.n * abs(part.confidence - part.accuracy) for part in bins if part.n) / len(labels)
    nll = float(-np.log(np.maximum(true, np.finfo(float).tiny)).mean())
    return Reliability(tuple(bins), float(ece), nll, len(labels))


def calibration_table(classifier: Classifier, logits: Logits, labels: npt.NDArray[np.int64], split: str) -> None:
    """Reliability on MNIST's own pictures and on the hard ones, as shipped and with a temperature.

    The temperature is the model's own or, if it has none, is fitted here to the validation digits.
    """
    train, test = load_mnist("train"), load_mnist("test")
    plain = in_batches(classifier.runner, train.sequences[-N_VALIDATION:], 256)
    plain_labels = train.labels[-N_VALIDATION:]
    temperature = classifier.runner.contract.temperature
    if temperature == 1:
        temperature = fit_temperature(plain, plain_labels)
    if split == "test":
        plain, plain_labels = in_batches(classifier.runner, test.sequences, 256), test.labels
    for name, of, by in (
        ("MNIST's validation digits" if split == "train" else "MNIST's test digits", plain, plain_labels),
        ("hard pictures", logits, labels),
    ):
        _print_reliability(f"{name}, temperature 1", reliability(probabilities(of), by))
        _print_reliability(f"{name}, temperature {temperature}", reliability(probabilities(of, temperature), by))


def _print_reliability(title: str, found: Reliability) -> None:
    print(f"\n{title}: ECE {100 * found.ece:.2f} points, NLL {found.nll:.4f}, n = {found.n:,}")
    for part in found.bins:
        if part.n:
            print(
                f"  {part.low:.1f}-{part.high:.1f}{part.n:8,d}  sure {part.confidence:.3f}  right {part.accuracy:.3f}"
            )


def no_digit_table(classifier: Classifier, args: argparse.Namespace) -> None:
    """Per kind of picture without a digit: how many are said to show none or several, or are doubted.

    Said is: no ink, several objects, or no digit; a low confidence alone is none of these.
    """
    print(f"\n{'no digit':28}{'said so':>10}{'noted':>10}{'noted or':>12} below {LOW}")
    for kind in NO_DIGIT:
        found = read(classifier, list(no_digit_pictures(kind, args.split, args.n, args.seed)))
        said = [prediction.note not in (None, "low confidence") for prediction in found]
        noted = [prediction.note is not None for prediction in found]
        doubtful = [p.note is not None or (p.confidence or 0.0) < LOW for p in found]
        print(
            f"{kind:28}{sum(said):6d}/{len(found)}{sum(noted):6d}/{len(found)}{sum(doubtful):10d}/{len(found)}",
            flush=True,
        )


def labelled(kind: str, args: argparse.Namespace) -> list[tuple[str, bytes]]:
    """The pictures of a kind with their labels; ``none`` for what is no digit."""
    if kind in NO_DIGIT:
        return [("none", content) for content in no_digit_pictures(kind, args.split, args.n, args.seed)]
    return [(str(label), content) for label, content in pictures(kind, args.split, args.n, args.seed)]


def sheet(classifier: Classifier, items: list[tuple[str, bytes]], target: Path) -> None:
    """Each picture that was read beside what the network saw, with the answer and the label above."""
    pairs = []
    for label, content in items:
        found = classifier.classify(content)
        note = f"label {label}" if found.label == label else f"WRONG, label {label}"
        pairs.append((content, replace(found, note=note)))
    save_pairs(pairs, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("train", "test"), default="train", help="train to tune, test to report")
    parser.add_argument("-n", type=int, default=50, help="pictures of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=(*KINDS, *NO_DIGIT), help="only this kind; may be repeated")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="an ONNX file, a run folder or a shipped model")
    parser.add_argument("-o", type=Path, help="write the pictures into this folder instead")
    parser.add_argument("--sheet", type=Path, help="draw them beside what the network saw, into this PNG, instead")
    args = parser.parse_args()
    kinds = args.kind or KINDS
    if args.o:
        for kind in kinds:
            for i, (label, content) in enumerate(labelled(kind, args)):
                target = args.o / kind.replace(",", "").replace(" ", "_") / label
                target.mkdir(parents=True, exist_ok=True)
                (target / f"{i:04d}.png").write_bytes(content)
        return
    classifier = Classifier(args.model, provider="cpu")
    if args.sheet:
        sheet(classifier, [item for kind in kinds for item in labelled(kind, args)], args.sheet)
        return
    if nothing := set(kinds) & set(NO_DIGIT):
        parser.error(f"{', '.join(nothing)}: only with -o, --sheet, or all kinds")
    logits, labels = table(classifier, args)
    if not args.kind:
        no_digit_table(classifier, args)
        calibration_table(classifier, logits, labels, args.split)


if __name__ == "__main__":
    main()
