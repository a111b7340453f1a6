"""edgelstm inspect: what a model file says of itself."""

import dataclasses
from typing import TYPE_CHECKING

import click

from edgelstm.cli.options import json_option, model_to_use, print_json
from edgelstm.errors import printable

if TYPE_CHECKING:
    from edgelstm.contract import Value


@click.command(epilog="Example: edgelstm inspect base")
@click.argument("model", required=False)
@json_option
def command(model: str | None, as_json: bool) -> None:
    """Show a model's contract, graph, size, parameters and FLOPs.

    MODEL is an ONNX file, a run folder or a shipped model's name (default: runs/base if it is there,
    else the shipped base model).
    """
    from edgelstm.runtime.runner import OrtRunner

    file = model_to_use(model)
    runner = OrtRunner(file, provider="cpu")
    contract, config, graph = file.contract, file.contract.config, file.graph
    if as_json:
        print_json(
            {
                "file": file.path,
                "file_bytes": file.n_bytes,
                "contract": dataclasses.asdict(contract),
                "n_parameters": config.n_parameters,
                "flops_per_image": config.flops,
                "nodes": [{"operator": operator, "provider": provider} for operator, provider in runner.nodes()],
            }
        )
        return
    rule = contract.early
    early = f"a {rule}" if rule else "no rule"
    if rule and rule.mean_rows is not None:
        early += (
            f": {rule.mean_rows:.1f} of {config.rows} rows on the validation images and their shifts by a pixel, "
            f"{rule.validation}"
        )
    form = ", rows and state" if contract.kind == "stream" else ""
    lines = {
        "file": f"{file.source} ({file.n_bytes:,} bytes)",
        "contract": f"version {contract.version}{form}, {contract.precision}",
        "input": ", ".join(map(_signature, graph.inputs)),
        "output": ", ".join(map(_signature, graph.outputs)),
        "classes": printable(" ".join(config.class_names)),
        "model": f"{contract.name}: {config.n_steps} steps of {config.step_size} pixels, "
        f"{config.hidden_size} units, {config.n_layers} layer{'s' if config.n_layers > 1 else ''}",
        "graph": " ".join(operator for operator, _ in runner.nodes()) + "  (as onnxruntime runs it)",
        "parameters": f"{config.n_parameters:,}",
        "flops": f"{config.flops:,} an image",
        "recipe": f"{contract.recipe}, seed {contract.seed}",
        "validation": contract.validation or "not recorded",
        "test": contract.test or "not recorded",
        "confidence": f"softmax of the logits / {contract.temperature:.3f}",
        "early exit": early,
        "weights": f"sha256 {contract.weights_sha256}",
        "data": f"sha256 {contract.data_sha256}",
        "versions": ", ".join(f"{name} {version}" for name, version in contract.versions.items()),
    }
    for name, value in lines.items():
        click.echo(f"{name:<11} {printable(str(value), 2000)}")


def _signature(value: "Value") -> str:
    from edgelstm.contract import NUMPY_DTYPES

    return f"{value.name} {NUMPY_DTYPES[value.dtype].name} ({', '.join(map(str, value.shape))})"
