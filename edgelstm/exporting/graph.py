"""The ONNX file of a checkpoint: its weights in the contract's graph, the same bytes every time."""

import dataclasses
import importlib.metadata

import numpy as np
import numpy.typing as npt
import onnx

from edgelstm import __version__
from edgelstm.config import ModelConfig
from edgelstm.contract import (
    CONTRACT_VERSION,
    MEAN_NAME,
    SCALE_NAME,
    Array,
    EarlyRule,
    Kind,
    Lengths,
    ModelContract,
    Pixels,
    Precision,
    Score,
    Sequences,
    graph_layout,
)
from edgelstm.errors import ModelError
from edgelstm.exporting.quantize import quantized
from edgelstm.onnx_file import ModelFile, OnnxGraph, encode, graph_from, open_model
from edgelstm.training.checkpoint import Checkpoint
from edgelstm.training.model import PIXEL_SCALE, numpy_weights

GATE_ORDER = (0, 3, 1, 2)
"""torch's gates i, f, g, o taken as ONNX's i, o, f, c."""
PROBE_NUMBERS = 2**24
"""Inputs, or gates, of all steps of the random sequences: the NumPy reference holds them in float64."""


def contract_of(
    checkpoint: Checkpoint,
    precision: Precision = "fp32",
    *,
    test: Score | None = None,
    early: EarlyRule | None = None,
    kind: Kind = "picture",
    version: int = CONTRACT_VERSION,
) -> ModelContract:
    """What the exported file says of itself; ``test`` is the own score of int8 or fp16."""
    versions = {"edgelstm": __version__, "onnx": importlib.metadata.version("onnx")}
    return ModelContract(
        config=checkpoint.config,
        name=checkpoint.name,
        precision=precision,
        recipe=checkpoint.train.recipe,
        seed=checkpoint.train.seed,
        weights_sha256=checkpoint.weights_sha256,
        data_sha256=checkpoint.data_sha256,
        validation=checkpoint.validation if precision == "fp32" else None,
        test=checkpoint.test if precision == "fp32" else test,
        versions=checkpoint.versions | versions,
        temperature=checkpoint.temperature,
        kind=kind,
        early=early,
        ranges=checkpoint.ranges,
        no_digit=checkpoint.no_digit,
        version=version,
    )


def build_graph(checkpoint: Checkpoint, contract: ModelContract) -> OnnxGraph:
    """The graph of a checkpoint in the precision and form of ``contract``.

    Raises ModelError for weights that are not finite, or not in float16.
    """
    config, precision = contract.config, contract.precision
    trained = numpy_weights(checkpoint.weights)
    weights: dict[str, Array] = {"head.weight": trained["head.weight"], "head.bias": trained["head.bias"]}
    # folded into W; values are normalised by nodes of their own, see graph_layout
    scale = 1.0 if config.is_values else float(trained[SCALE_NAME][0]) if SCALE_NAME in trained else PIXEL_SCALE
    for layer in range(config.n_layers):
        name = f"lstm_{layer}"
        w, r, b = onnx_lstm_weights(trained, layer, scale=scale if layer == 0 else 1.0)
        weights |= {f"{name}.W": w, f"{name}.R": r, f"{name}.B": b}
    if precision == "fp16":
        with np.errstate(over="ignore"):  # found as infinity
            weights = {name: array.astype(np.float16) for name, array in weights.items()}
    if config.is_values:
        weights |= {name: trained[name] for name in (MEAN_NAME, SCALE_NAME)}
    wrong = [name for name, array in weights.items() if not np.isfinite(array).all()]
    if wrong:
        raise ModelError(
            f"the checkpoint cannot be exported as {precision}",
            found=f"weights that are not finite numbers in {precision}: {', '.join(wrong)}",
            fix="export fp32" if precision == "fp16" else "train again",
        )  # fmt: skip
    if precision == "int8":
        for name in [f"lstm_{layer}.{key}" for layer in range(config.n_layers) for key in "WR"]:
            weights[name], weights[f"{name}_scale"] = quantized(weights[name])
            weights[f"{name}_zero_point"] = np.zeros(weights[f"{name}_scale"].shape, np.int8)
    picture = dataclasses.replace(contract, kind="picture")
    graph = graph_from(graph_layout(config, precision), weights, picture.to_metadata())
    if contract.kind == "picture":
        return graph
    return graph.with_form(graph_layout(config, precision, "stream"), contract.to_metadata())


def checked_file(graph: OnnxGraph, source: str = "the exported graph") -> ModelFile:
    """The file of a graph, once onnx's own checker and shape inference and `open_model` have taken it.

    ``source`` is how errors call it. Raises ModelError if they do not take it.
    """
    file = open_model(encode(graph), source)
    try:
        model = onnx.load_model_from_string(file.content)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError("the ONNX checker refuses the graph", found=str(error)) from error
    if model.SerializeToString(deterministic=True) != file.content:
        raise ModelError("onnx reads the exported file otherwise", expected="the same bytes when written again")
    return file


def onnx_lstm_weights(
    weights: dict[str, npt.NDArray[np.float32]], layer: int, scale: float
) -> tuple[npt.NDArray[np.float32], ...]:
    """torch's weights of a layer as ONNX W (1, 4H, I), R (1, 4H, H), B (1, 8H), gates reordered.

    ``scale`` is folded into W, in float64.
    """

    def reordered(name: str) -> npt.NDArray[np.float64]:
        gates = np.split(weights[f"lstm.{name}_l{layer}"].astype(np.float64), 4)
        return np.concatenate([gates[gate] for gate in GATE_ORDER])

    w, r = reordered("weight_ih") * scale, reordered("weight_hh")
    b = np.concatenate([reordered("bias_ih"), reordered("bias_hh")])
    return w[None].astype(np.float32), r[None].astype(np.float32), b[None].astype(np.float32)


def probe_pixels(config: ModelConfig, n: int = 256) -> Pixels:
    """(n, rows, cols) random pixels of every density, the same each time."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (n, config.rows, config.cols), dtype=np.uint8)
    return noise * (random.random(noise.shape) < np.linspace(0, 1, n)[:, None, None])


def probe_sequences(checkpoint: Checkpoint, n: int | None = None) -> tuple[Sequences, Lengths | None]:
    """(n, rows, cols) random sequences and, where lengths differ, their (n,) lengths: what parity is checked on.

    By default 256, or fewer long ones; the same each time. Pixels of every density; values about as far from a
    column's mean as the data, some further.
    """
    config, random = checkpoint.config, np.random.default_rng(0)
    if n is None:
        n = max(32, min(256, PROBE_NUMBERS // (config.n_steps * max(config.step_size, 4 * config.hidden_size))))
    shape = (n, config.rows, config.cols)
    if not config.is_values:
        return probe_pixels(config, n), None
    trained = numpy_weights(checkpoint.weights)
    spread = np.linspace(0, 3, n)[:, None, None]
    values = trained[MEAN_NAME] + random.standard_normal(shape) * spread / trained[SCALE_NAME]
    lengths = random.integers(1, config.rows + 1, n).astype(np.int32) if config.variable_length else None
    return values.astype(np.float32), lengths
