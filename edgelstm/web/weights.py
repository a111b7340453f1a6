"""A model's weights as the page's engine reads them: one file of bytes, laid out as engine.c walks through it."""

import numpy as np

from edgelstm.errors import ModelError
from edgelstm.native.generate import head_arrays, layer_arrays, padded
from edgelstm.native.scheme import scheme_of
from edgelstm.onnx_file import ModelFile

MAX_UNITS = 512
"""Of a layer: engine.c's MODEL_MAX_UNITS."""
MAX_COLUMNS = 1024
"""Of a step: engine.c's MODEL_MAX_COLUMNS."""


def page_weights(model: ModelFile) -> bytes:
    """Four sizes as int32, then each layer's weights and scales, then the classes' weights, scales and bias.

    int8, whatever the file's precision; little-endian, every part a multiple of four bytes. Raises ModelError if the
    engine has no room for the model.
    """
    config = model.contract.config
    assert not config.is_values
    assert config.step_size <= MAX_COLUMNS
    if config.hidden_size > MAX_UNITS:
        found, expected = f"{config.hidden_size:,} units a layer", f"at most {MAX_UNITS:,}"
        raise ModelError(
            f"{model.source} is too large for the page",
            found=found,
            expected=expected,
            fix="choose another with --model",
        )
    scheme = scheme_of(model, "int8")
    arrays = [np.array([config.n_layers, config.step_size, padded(config.hidden_size), config.n_classes], np.int32)]
    for layer in scheme.layers:
        of_layer = layer_arrays(layer, signed_input=False)  # it matters to the shifts only, which are x86's
        arrays += [of_layer["weights"], of_layer["scales"]]
    arrays += head_arrays(scheme).values()
    return b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays)
