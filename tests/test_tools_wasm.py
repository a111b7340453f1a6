"""Tests of tools/wasm.py: the WebAssembly that ships is what the C that ships compiles to."""

import subprocess
from pathlib import Path
from shutil import which

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.fixture
def wasm(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    import wasm

    return wasm


def test_the_same_clang_makes_the_same_bytes(wasm, tmp_path):
    shipped = wasm.WASM.read_bytes()
    maker = wasm.compiler_of(shipped)
    if not which("clang") or not which("wasm-ld"):
        pytest.skip("no clang with lld on this machine")
    version = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    if version != maker:
        pytest.skip(f"engine.wasm was made by {maker}, here is {version}")
    assert shipped == wasm.compiled(tmp_path), "run make wasm"


def test_the_file_is_small_and_names_no_path(wasm):
    shipped = wasm.WASM.read_bytes()
    assert shipped.startswith(b"\0asm\1\0\0\0")
    assert len(shipped) < 12_000, f"{len(shipped):,} bytes"
    assert b"/" not in wasm.compiler_of(shipped).encode() + shipped[shipped.rindex(b"producers") :]


def test_the_compiler_is_read_from_the_file(wasm):
    assert wasm.compiler_of(b"\0asm...\tproducers\1\x0cprocessed-by\1\5clang\x0618.1.3") == "clang version 18.1.3"
    assert "clang version " in wasm.compiler_of(wasm.WASM.read_bytes())
