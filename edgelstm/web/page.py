"""The demo page: one HTML file that holds its scripts, its style, the engine and a model, and fetches nothing."""

import base64
import hashlib
import json
import re
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgelstm.contract import ModelContract
from edgelstm.errors import ModelError
from edgelstm.onnx_file import ModelFile
from edgelstm.web.weights import page_weights

SOURCES = Path(__file__).with_name("static")
"""What the page is made of; engine.wasm is compiled from engine.c by `make wasm`."""
SCRIPTS = ("digit.js", "engine.js", "latency.js", "pad.js", "views.js", "main.js")
"""In the order in which they need each other."""
ROWS, COLS = 28, 28
"""Pixels of a drawn digit, as in MNIST."""


@dataclass(frozen=True)
class Page:
    """The page with a model."""

    html: bytes
    policy: str
    """Its Content-Security-Policy, which it also holds: nothing from elsewhere, and nothing to elsewhere."""


def build_page(model: ModelFile) -> Page:
    """The page with any exported ``model`` of digits, as int8.

    Raises ModelError if the model does not read pictures of digits of 28x28 pixels, or is too large for the engine.
    """
    config = model.contract.config
    if (config.rows, config.cols, config.preparation) != (ROWS, COLS, "digit"):
        kind = {"digit": "pixels", "plain": "pixels as they are", "values": "values"}[config.preparation]
        found = f"a model of {config.rows}x{config.cols} {kind}"
        expected = f"a picture model of {ROWS}x{COLS} pixels, prepared as digits"
        raise ModelError(
            f"{model.source} cannot read what is drawn on the page", found=found, expected=expected,
            fix="choose another with --model",
        )  # fmt: skip
    # an HTML parser must not find the end of the script in a class's name
    data = json.dumps(page_data(model), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "style": _read("style.css"),
        "script": _script(),
        "data": data,
        "icon": _base64(_read("icon.svg").encode()),
    }
    # compiling WebAssembly needs its own word
    parts["policy"] = policy = (
        f"default-src 'none'; script-src '{_hash(parts['script'])}' 'wasm-unsafe-eval'; "
        f"style-src '{_hash(parts['style'])}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    html = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read("index.html"))
    return Page(html.encode(), policy)


def page_data(model: ModelFile) -> dict[str, Any]:
    """What the page's script is given, as JSON: the model, what it says of itself, and the engine."""
    contract, config, weights = model.contract, model.contract.config, page_weights(model)
    return {
        "rows": config.rows, "cols": config.cols, "class_names": config.class_names,
        "temperature": contract.temperature, "early": contract.early and asdict(contract.early),
        "about": _about(contract, len(weights)),
        "weights": _base64(zlib.compress(weights, 9)),
        "engine": _base64(zlib.compress((SOURCES / "engine.wasm").read_bytes(), 9)),
    }  # fmt: skip


def _about(contract: ModelContract, n_bytes: int) -> str:
    parts = [f"Model {contract.name}: {contract.config.n_parameters:,} parameters, int8, {n_bytes / 1000:,.0f} kB"]
    if test := contract.test:
        of = "" if contract.precision == "int8" else f" in {contract.precision}"
        parts.append(f"{100 * test.n_right / test.n:.2f} % of {test.n:,} test digits{of}")
    return " · ".join([*parts, "edgelstm's own C, as WebAssembly in this page"])


def _script() -> str:
    """The modules as one script: a page that was opened from the disk may load none. Indentation is left out."""
    text = re.sub(r"^(import .*\n|export | +)", "", "\n".join(map(_read, SCRIPTS)), flags=re.MULTILINE)
    return f'"use strict";\n{text}'


def _read(name: str) -> str:
    return (SOURCES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{_base64(hashlib.sha256(text.encode()).digest())}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
