"""What a model costs on a microcontroller: flash, RAM and instructions a picture, by a compiler and an emulator.

    python tools/microcontroller.py [MODEL...]

needs arm-none-eabi-gcc with newlib, and qemu-system-arm (Debian: gcc-arm-none-eabi, libnewlib-arm-none-eabi,
qemu-system-arm). The program that runs there is `microcontroller/main.c`.

**flash** is text and data of the model's object by arm-none-eabi-size, and those of the whole program: with the C
library's memcpy and memset, the arithmetic that the processor lacks, main and start-up.

**RAM** is what a whole picture takes beside the caller's pixels and logits: state and stack, down to the deepest byte
that is written. There is no heap and there are no writable globals.

**instructions** are counted, not timed: under ``-icount shift=0`` qemu's clock moves a nanosecond an instruction, and
SysTick reads it. Cycles are something else, and no board was measured. qemu has no Cortex-M0+; its M0 has the same
instructions.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import numpy as np

from edgelstm.contract import Logits, Pixels
from edgelstm.data.mnist import sample_digits
from edgelstm.files import sha256_of
from edgelstm.native.generate import CSource, c_source
from edgelstm.native.scheme import Precision, scheme_of
from edgelstm.onnx_file import ModelSource, open_model
from edgelstm.show.tables import table

BOARD = Path(__file__).resolve().parent / "microcontroller"
COMPILER, SIZE, EMULATOR = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-mthumb")
LINKING = ("-nostartfiles", "-specs=nano.specs", "-T", str(BOARD / "cortex-m.ld"))
OPTIONS = ("-nographic", "-monitor", "none", "-serial", "none", "-semihosting-config", "enable=on,target=native")
TIMEOUT_S = 3600
N_DIGITS = 20
"""Pictures take about equally long: the groups of four pixels that are blank differ."""


@dataclass(frozen=True)
class Chip:
    """A processor, how to compile for it, and the machine that has it in qemu."""

    name: str
    board: str
    flags: tuple[str, ...]
    instructions_a_tick: float = 40
    """Of SysTick: the board's nanoseconds a cycle."""
    flash_bytes: int = 1 << 20
    """For the program: of the board, or of cortex-m.ld."""


CHIPS = (
    Chip("Cortex-M0+", "microbit", ("-mcpu=cortex-m0plus",), 62.5, 1 << 18),
    Chip("Cortex-M3", "mps2-an385", ("-mcpu=cortex-m3",)),
    Chip("Cortex-M4", "mps2-an386", ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")),
    Chip("Cortex-M7", "mps2-an500", ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard")),
)


@dataclass(frozen=True)
class Run:
    """What a chip said of some pictures."""

    classes: list[int]
    instructions: float
    """A picture, on average."""
    ram_bytes: int
    """The most that one took."""
    logits: Logits


def source_of(model: ModelSource, precision: Precision = "int8") -> CSource:
    """The C of a model, by the name that the programs here know."""
    file = open_model(model)
    scheme = scheme_of(file, precision)
    return c_source(scheme, file.contract, name="digit", model_sha256=sha256_of(file.content))


def build(source: CSource, chip: Chip, folder: Path, optimisation: str = "-Os") -> Path:
    """The program, in ``folder``; the model's object is digit.o beside it. Raises RuntimeError."""
    (folder / "digit.c").write_text(source.code)
    (folder / "digit.h").write_text(source.header)
    command = [COMPILER, *FLAGS, *chip.flags, optimisation]
    output([*command, "-c", "digit.c", "-o", "digit.o"], folder)
    output([*command, "-I.", *LINKING, str(BOARD / "main.c"), "digit.o", "-o", "digit.elf"], folder)
    return folder / "digit.elf"


def run(chip: Chip, program: Path, pixels: Pixels) -> Run:
    """The program's answers to (N, rows, cols) pictures, in the emulator. Raises RuntimeError if it fails."""
    command = [EMULATOR, "-M", chip.board, *OPTIONS, "-icount", "shift=0", "-kernel", str(program)]
    lines = output(command, program.parent, pixels.tobytes()).decode().splitlines()
    numbers = np.array([[int(number, 16) for number in line.split()] for line in lines], "<u4")
    instructions = float(numbers[:, 1].mean()) * chip.instructions_a_tick
    return Run(numbers[:, 0].tolist(), instructions, int(numbers[:, 2].max()), numbers[:, 3:].copy().view("<f4"))


def flash_bytes(file: Path) -> int:
    """Text and data of an object or a program."""
    text, data = output([SIZE, file.name], file.parent).split(b"\n")[1].split()[:2]
    return int(text) + int(data)


def missing() -> str | None:
    """Which of the programs are not here."""
    names = [name for name in (COMPILER, SIZE, EMULATOR) if not which(name)]
    return f"needs {' and '.join(names)}" if names else None


def output(command: list[str], folder: Path, given: bytes = b"") -> bytes:
    """What a program writes to stdout. Raises RuntimeError with what it says if it fails."""
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, timeout=TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", default=["nano", "small", "base"], help="what edgelstm infer takes")
    if problem := missing():
        sys.exit(problem)
    digits = sample_digits().sequences[:N_DIGITS]
    rows = [["model, int8", "processor", "gcc", "flash", "whole program", "RAM", "instructions"]]
    for model in parser.parse_args().models:
        source = source_of(model)
        for chip in CHIPS:
            for optimisation in ("-Os", "-O2"):
                with tempfile.TemporaryDirectory() as folder:
                    program = build(source, chip, Path(folder), optimisation)
                    found, object_bytes = run(chip, program, digits), flash_bytes(program.with_suffix(".o"))
                    sizes = [f"{size:,}" for size in (object_bytes, flash_bytes(program), found.ram_bytes)]
                rows.append([model, chip.name, optimisation, *sizes, f"{found.instructions:,.0f}"])
    print(table(rows, left=3))


if __name__ == "__main__":
    main()
