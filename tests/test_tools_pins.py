"""tools/constraints.txt and tools/peers.txt: every package that is installed by name is pinned, and to one version."""

import importlib
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch", "torchvision")
"""What edgelstm's own side of the comparison runs in."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    """Name -> version of a file that holds nothing but exact pins and comments."""
    lines = [line for line in (ROOT / "tools" / file).read_text().splitlines() if not line.startswith("#")]
    assert [] == [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    return {normal(name): version for name, version in (line.split("==") for line in lines)}


def named(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\s<>=!~;\[]", requirement)[0]) for requirement in requirements}


def test_whatever_pyproject_names_is_pinned() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    base, extras = document["project"]["dependencies"], document["project"]["optional-dependencies"]
    build, dev = document["build-system"]["requires"], document["dependency-groups"]["dev"]
    wanted = named([*base, *chain(*extras.values()), *build, *dev])
    assert set() == wanted - {*pins("constraints.txt")}
    assert set() == named([*base, *extras["train"], *extras["cpu"]]) - {*pins("peers.txt")}


def test_every_peer_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    peers = importlib.import_module("peers").PEERS
    pinned = {*pins("peers.txt"), "edgelstm"}
    missing = [name for name, peer in peers.items() if peer.packages and not named(list(peer.packages)) & pinned]
    assert [] == missing


def test_our_own_side_has_the_same_versions_in_both_environments() -> None:
    ours, theirs = pins("constraints.txt"), pins("peers.txt")
    assert {name: ours[name] for name in SHARED} == {name: theirs[name] for name in SHARED}
