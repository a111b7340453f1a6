"""edgelstm inspect"""

import dataclasses

import click

from edgelstm.cli.options import json_option, print_json


@click.command(epilog="Example: edgelstm inspect base")
@click.argument("model", required=False)
@json_option
def command(model: str | None, as_json: bool) -> None:
    """Show a model's contract, graph, size, parameters and FLOPs.

    MODEL is an ONNX file, a run folder or a shipped model's name (default: runs/base if it is there,
    else the shipped base model).
    """
    from edgelstm.contract import INPUT_NAME, NEXT_STATE_NAMES, OUTPUT_NAME, ROW_NAME, STATE_NAMES
    from edgelstm.runtime.runner import OrtRunner, default_model, find_model, read_model
    from edgelstm.runtime.stream import Stream
    from edgelstm.runtime.stream_runner import is_streaming

    path = find_model(model or default_model())
    streaming = is_streaming(read_model(path))
    runner = Stream(path) if streaming else OrtRunner(path, provider="cpu")
    contract, config = runner.contract, runner.contract.config
    nodes = runner.nodes()
    if as_json:
        print_json(
            {
                "file": path,
                "file_bytes": runner.n_bytes,
                "contract": dataclasses.asdict(contract),
                "n_parameters": config.n_parameters,
                "flops_per_image": config.flops,
                "nodes": [{"operator": operator, "provider": provider} for operator, provider in nodes],
            }
        )
        return
    lines = {
        "file": f"{path} ({runner.n_bytes:,} bytes)",
        "contract": f"version {contract.version}{' for streams' if streaming else ''}, {contract.precision}",
        "input": f"{INPUT_NAME} uint8 (batch, {config.rows}, {config.cols})",
        "output": f"{OUTPUT_NAME} float32 (batch, {config.n_classes}): {' '.join(config.class_names)}",
        "model": f"{contract.name}: {config.n_steps} steps of {config.step_size} pixels, "
        f"{config.hidden_size} units, {config.n_layers} layer(s)",
        "graph": " ".join(operator for operator, _ in nodes) + "  (as onnxruntime runs it)",
        "parameters": f"{config.n_parameters:,}",
        "flops": f"{config.flops:,} an image",
        "recipe": f"{contract.recipe}, seed {contract.seed}",
        "validation": str(contract.validation or "not recorded"),
        "test": str(contract.test or "not recorded"),
        "confidence": f"softmax of the logits / {contract.temperature:.3f}",
        "weights": f"sha256 {contract.weights_sha256}",
        "data": f"sha256 {contract.data_sha256}",
        "versions": ", ".join(f"{name} {version}" for name, version in contract.versions.items()),
    }
    if streaming:
        state, rule = f"float32 ({config.n_layers}, batch, {config.hidden_size})", contract.early
        lines["input"] = (
            f"{ROW_NAME} uint8 (batch, rows, {config.cols}), rows a multiple of {config.rows_per_step}; "
            f"{' and '.join(STATE_NAMES)} {state}, zeros before the first row"
        )
        lines["output"] += f"; {' and '.join(NEXT_STATE_NAMES)} {state}"
        lines["early"] = "no rule" if rule is None else f"a {rule}"
        if rule and rule.mean_rows is not None:
            lines["early"] += (
                f": {rule.mean_rows:.1f} of {config.rows} rows on the shifted validation images, {rule.validation}"
            )
    for name, value in lines.items():
        click.echo(f"{name:<11} {value}")
