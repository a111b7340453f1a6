"""tools/outliers.py: what is drawn is the same each time, and a rule for no digit is found where there is one."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgelstm.contract import N_VIEWS, NoDigitRule
from edgelstm.data.dataset import Part
from edgelstm.data.picture import digit_from_array
from edgelstm.runtime.calibration import no_digit_score

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)  # where a script finds its neighbours
    return importlib.import_module("outliers")


def test_every_kind_is_drawn_the_same_each_time_and_has_ink(tool: ModuleType, sample: Part) -> None:
    for kind, (_, draw) in tool.OUTLIERS.items():
        once, again = (draw(list(sample.sequences[:5]), np.random.default_rng(3)) for _ in range(2))
        assert np.array_equal(once, again), kind
        assert not digit_from_array(once).empty, kind


def test_the_rule_tells_what_lies_around_the_digits_from_them(tool: ModuleType, monkeypatch) -> None:
    monkeypatch.setattr(tool, "N_STEPS", 400)
    rng = np.random.default_rng(0)
    digits, none = (rng.normal(0, 1, (600, N_VIEWS * 10)).astype(np.float32) for _ in range(2))
    digits[:, 0], none[:, 0] = rng.normal(5, 1, 600), rng.normal(5, 1, 600) + rng.choice([-6, 6], 600)
    rule = tool.fit_rule(digits, np.ones(600), none, np.ones(600))
    assert rule == tool.fit_rule(digits, np.ones(600), none, np.ones(600))
    assert isinstance(rule, NoDigitRule)
    assert len(rule.hidden) == tool.N_UNITS
    right = np.mean(no_digit_score(digits, rule) < 0), np.mean(no_digit_score(none, rule) > 0)
    assert min(right) > 0.9, right
