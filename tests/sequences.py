"""Models of other sequences than digits, for tests of what any model must do."""

from edgelstm.config import ModelConfig

_THREE = ("rest", "walk", "run")
SEQUENCES = {
    "values": ModelConfig(rows=9, cols=3, hidden_size=8, class_names=_THREE, preparation="values"),
    "values, three rows a step": ModelConfig(
        rows=12, cols=2, rows_per_step=3, hidden_size=5, n_layers=2, class_names=_THREE, preparation="values"
    ),
    "unequal lengths": ModelConfig(
        rows=11, cols=3, hidden_size=8, class_names=_THREE, preparation="values", variable_length=True
    ),
    "unequal lengths, two layers": ModelConfig(
        rows=7, cols=1, hidden_size=5, n_layers=2, class_names=_THREE, preparation="values", variable_length=True
    ),
    "plain pictures": ModelConfig(rows=8, cols=9, rows_per_step=2, hidden_size=6, preparation="plain"),
}
UNEQUAL = {name: config for name, config in SEQUENCES.items() if config.variable_length}
