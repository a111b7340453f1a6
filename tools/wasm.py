"""Compiles the demo page's engine to WebAssembly: make wasm

Needs clang and lld (Debian: apt-get install clang lld). The same version of clang makes the same bytes everywhere; the
file names the version that made it.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from edgelstm.errors import printable
from edgelstm.files import write_bytes
from edgelstm.native.generate import engine

WEB = Path(__file__).resolve().parent.parent / "edgelstm" / "web"
WASM = WEB / "static" / "engine.wasm"
# -O3: a third faster than -Os, and 10 kB instead of 6. --strip-debug keeps the name of the compiler.
COMMAND = (
    "clang", "--target=wasm32", "-O3", "-msimd128", "-mbulk-memory", "-ffp-contract=off", "-ffreestanding", "-nostdlib",
    "-std=c99", "-Wall", "-Wextra", "-Werror", "-Wl,--no-entry", "-Wl,--strip-debug", "-x", "c", "-",
)  # fmt: skip
TIMEOUT_S = 120


def source() -> str:
    """engine.c with the engine's text in it: read from stdin, no path of this machine comes into the file."""
    before, after = (WEB / "engine.c").read_text(encoding="utf-8").split('#include "engine.h"\n')
    return before + engine({"int8", "pixels"}) + after


def compiled(folder: Path) -> bytes:
    """The WebAssembly, linked in ``folder``. Raises OSError without clang, CalledProcessError with what it says."""
    target = folder / "engine.wasm"
    subprocess.run(
        [*COMMAND, "-o", target], input=source(), text=True, check=True, capture_output=True, timeout=TIMEOUT_S
    )
    return target.read_bytes()


def compiler_of(wasm: bytes) -> str:
    """Who the file says made it, in the words of `clang --version`: "Debian clang version 14.0.6"."""
    # its section "producers": the field processed-by, then one pair of texts, each behind its length
    after = wasm.partition(b"processed-by")[2][1:]
    texts = []
    for _ in range(2):
        texts.append(after[1 : 1 + after[0]].decode())
        after = after[1 + after[0] :]
    return " version ".join(texts)


def main() -> None:
    try:
        with tempfile.TemporaryDirectory() as folder:
            wasm = compiled(Path(folder))
    except FileNotFoundError:
        sys.exit("clang is not installed: on Debian, apt-get install clang lld")
    except subprocess.CalledProcessError as error:
        sys.exit(error.stderr)
    write_bytes(WASM, wasm)
    print(f"wrote {printable(WASM.relative_to(WEB.parent.parent))} ({len(wasm):,} bytes), by {compiler_of(wasm)}")


if __name__ == "__main__":
    main()
