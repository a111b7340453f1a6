"""Do all machines give the same logits, bit for bit? Compiles the shipped models for each and compares with NumPy.

    python tools/same_bits.py [--digits N] [--only WORD] [MODEL...]

prints the sha256 of each machine's logits of the test digits (of the shipped 1,000 where MNIST is not at hand; of fewer
where a processor is emulated), beside that of `edgelstm.native.scheme`; exit status 1 if one differs. But on a Cortex-M
the last state's c is compared as well: int8's integers hide most of what differs by a last bit. What is missing here is
said. All compilers and emulators are Debian's: see `.ci/run`.
"""

import argparse
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import microcontroller
import numpy as np
from microcontroller import CHIPS, Chip, output, source_of

from edgelstm.config import ModelConfig
from edgelstm.contract import Lengths, Sequences
from edgelstm.data.mnist import evaluation_digits
from edgelstm.measure.compile import logits_sha256
from edgelstm.native.generate import CSource
from edgelstm.native.scheme import Floats, Precision, Scheme, scheme_of
from edgelstm.onnx_file import open_model
from edgelstm.show.tables import table

WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
PRECISIONS: tuple[Precision, ...] = ("int8", "fp32")

# A sequence is its number of rows, then its rows. Status 2: a stream's logits differ; 3: the self-test's do.
MAIN = """
#include "digit.h"
#include <stdio.h>
#include <string.h>
int main(void) {
  static @KIND@ rows[DIGIT_ROWS * DIGIT_COLS];
  float logits[DIGIT_CLASSES], pushed[DIGIT_CLASSES];
  int32_t n, at;
  while (fread(&n, sizeof n, 1, stdin) == 1 && fread(rows, sizeof rows[0] * DIGIT_COLS, (size_t)n, stdin)) {
    digit_state state;
    digit_classify(rows@LENGTH@, logits);
    digit_reset(&state);
    for (at = 0; at < n; at += DIGIT_ROWS_PER_STEP) digit_push(&state, rows + at * DIGIT_COLS);
    digit_logits(&state, pushed);
    if (memcmp(logits, pushed, sizeof logits)) return 2;
    fwrite(logits, sizeof logits, 1, stdout);
    fwrite(state.c, sizeof state.c, 1, stdout);
  }
  return digit_self_test() ? 0 : 3;
}
"""

# WebAssembly has no C library: what MAIN needs of one is Node.js's.
WASM_FILES = {
    "string.h": """
#include <stddef.h>
#define memcpy __builtin_memcpy
#define memset __builtin_memset
int memcmp(const void *, const void *, size_t);
""",
    "stdio.h": """
#include <stddef.h>
enum { stdin, stdout };
size_t fread(void *, size_t, size_t, int);
size_t fwrite(const void *, size_t, size_t, int);
""",
    "run.mjs": """
import { readFileSync, writeFileSync } from "node:fs";
const given = readFileSync(0), found = [];
let at = 0;
const bytes = (from, n) => Buffer.from(run.instance.exports.memory.buffer, from, n);
const env = {
  memcmp: (a, b, n) => bytes(a, n).compare(bytes(b, n)),
  fread: (to, size, n) => (at + size * n > given.length ? 0 : (given.copy(bytes(to), 0, at, (at += size * n)), n)),
  fwrite: (from, size, n) => (found.push(Buffer.from(bytes(from, size * n))), n),
};
const run = await WebAssembly.instantiate(readFileSync(process.argv[2]), { env });
process.exitCode = run.instance.exports.run();
writeFileSync(1, Buffer.concat(found));
""",
}
WASM = ("-std=c99", "-O3", "--target=wasm32", "-nostdlib", "-ffreestanding", "-mbulk-memory", "-I.", "-Dmain=run",
        "-Wl,--no-entry", "-Wl,--export=run", "-Wl,--allow-undefined")  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """A compiler with its options, and what runs what it makes."""

    name: str
    family: str
    """x86, aarch64, riscv64, armv7, wasm or Cortex-M."""
    compiler: str
    flags: tuple[str, ...]
    needs: tuple[str, ...] = ()
    """What the processor must have, by /proc/cpuinfo's names."""
    emulator: tuple[str, ...] = ()
    chip: Chip | None = None
    most: int = 10_000
    """Digits that it is asked: emulators, sanitizers and -O0 are slow."""

    def missing(self) -> str | None:
        """The program that is not here."""
        if self.chip:
            return microcontroller.missing()
        linker = ("wasm-ld",) if self.family == "wasm" else ()
        names = [name for name in (self.compiler, *linker, *self.emulator[:1]) if not which(name)]
        return f"needs {' and '.join(names)}" if names else None

    def lacking(self) -> str | None:
        """What this processor does not have."""
        if self.family == "x86" and platform.machine() != "x86_64":
            return f"this machine is {platform.machine()}"
        lacking = set(self.needs) - _processor()
        return f"this processor has no {', '.join(sorted(lacking))}" if lacking else None


def _processor() -> set[str]:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def _machines() -> Iterator[Machine]:
    avx512 = ("avx512f", "avx512bw", "avx512vl", "avx512vnni")
    sets: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        "plain C": (("-DDIGIT_LANES=1",), ()),
        "SSE2": ((), ()),
        "AVX2": (("-mavx2",), ("avx2",)),
        "AVX2 and VNNI": (("-mavx2", "-mavxvnni"), ("avx2", "avx_vnni")),
        "AVX-512 VNNI": (tuple(f"-m{each}" for each in avx512), (*avx512[:3], "avx512_vnni")),
        "all it has": (("-march=native",), ()),
    }
    for compiler in ("gcc", "clang"):
        for name, (flags, needs) in sets.items():
            yield Machine(f"x86-64, {name}, {compiler} -O3", "x86", compiler, ("-std=c99", "-O3", *flags), needs)
        # gnu17: here gcc would fuse a product and a sum into one operation, were it not told otherwise
        for level in ("-O0", "-O1", "-O2", "-Os"):
            flags = ("-std=gnu17", level, "-march=native")
            most = 1000 if level == "-O0" else 10_000
            yield Machine(f"x86-64, all it has, {compiler} {level}, gnu17", "x86", compiler, flags, most=most)
    for compiler in ("g++", "clang++"):
        flags = ("-x", "c++", "-std=c++11", "-O2", "-march=native")
        yield Machine(f"x86-64, all it has, {compiler} -O2", "x86", compiler, flags)
    for name in ("plain C", "SSE2", "AVX2", "all it has"):
        flags = ("-std=c99", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *sets[name][0])
        yield Machine(f"x86-64, {name}, gcc with sanitizers", "x86", "gcc", flags, sets[name][1], most=1000)
    for family, name, flags in (
        ("aarch64", "aarch64", ("-march=armv8-a",)),
        ("aarch64", "aarch64 with dotprod", ("-march=armv8.2-a+dotprod",)),
        ("riscv64", "riscv64", ()),
    ):
        emulator = (f"qemu-{family}", "-L", f"/usr/{family}-linux-gnu")
        for compiler, target in ((f"{family}-linux-gnu-gcc", ()), ("clang", (f"--target={family}-linux-gnu",))):
            all_flags = ("-std=gnu17", "-O3", *target, *flags)
            label = f"{name}, {'clang' if target else 'gcc'} -O3, qemu"
            yield Machine(label, family, compiler, all_flags, emulator=emulator, most=300)
    # the two products at once of a Cortex-M4, for any model: here the C library's files are the emulator's
    flags = ("-std=gnu17", "-O3", "-mthumb", "-mcpu=cortex-a7", "-mfpu=vfpv4-d16", "-mfloat-abi=hard",
             "-specs=rdimon.specs")  # fmt: skip
    emulator, name = ("qemu-arm", "-cpu", "max"), "armv7 with DSP, gcc -O3, qemu"
    yield Machine(name, "armv7", microcontroller.COMPILER, flags, emulator=emulator, most=300)
    for name, flags in (("WebAssembly", ()), ("WebAssembly with SIMD", ("-msimd128",))):
        yield Machine(f"{name}, clang -O3, node", "wasm", "clang", (*WASM, *flags), emulator=("node", "run.mjs"))
    for chip in CHIPS:
        yield Machine(
            f"{chip.name}, gcc -Os, qemu", "Cortex-M", microcontroller.COMPILER, chip.flags, chip=chip, most=20
        )


MACHINES = tuple(_machines())


def numbers_on(
    machine: Machine, source: CSource, config: ModelConfig, sequences: Sequences, lengths: Lengths | None = None
) -> Floats:
    """What the C, compiled for this machine, makes of (N, rows, cols): of each the logits and each layer's last c; on a
    Cortex-M the logits only.

    Raises RuntimeError if it does not compile or run, or a stream or the self-test has other bits.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if machine.chip:
            program = microcontroller.build(source, machine.chip, folder)
            return microcontroller.run(machine.chip, program, sequences).logits
        kind, length = "uint8_t" if sequences.dtype == np.uint8 else "float", "" if lengths is None else ", n"
        main = MAIN.replace("@KIND@", kind).replace("@LENGTH@", length)
        files = {"main.c": main, "digit.c": source.code, "digit.h": source.header}
        for name, text in (files | (WASM_FILES if machine.family == "wasm" else {})).items():
            (folder / name).write_text(text)
        output([machine.compiler, *machine.flags, *WARNINGS, "main.c", "digit.c", "-o", "digit"], folder)
        found = output([*machine.emulator, "./digit"], folder, _as_bytes(sequences, lengths))
    numbers = np.frombuffer(found, "<f4").reshape(len(sequences), -1)
    logits, c = np.split(numbers, [config.n_classes], axis=1)
    units = c.reshape(len(c), config.n_layers, -1)[..., : config.hidden_size]  # without those that pad them
    return np.concatenate([logits, units.reshape(len(c), -1)], axis=1)


def _as_bytes(sequences: Sequences, lengths: Lengths | None) -> bytes:
    rows = [sequences.shape[1]] * len(sequences) if lengths is None else lengths
    parts = (np.int32(n).tobytes() + sequence[:n].tobytes() for n, sequence in zip(rows, sequences, strict=True))
    return b"".join(parts)


def expected_numbers(scheme: Scheme, sequences: Sequences, lengths: Lengths | None = None) -> Floats:
    """The same by NumPy."""
    config = scheme.config
    ends = np.full(len(sequences), sequences.shape[1]) if lengths is None else lengths
    found = np.empty((len(sequences), config.n_classes + config.n_layers * config.hidden_size), np.float32)
    for end in np.unique(ends):
        chosen = ends == end
        state = scheme.start(int(chosen.sum()))
        for row in range(0, int(end), config.rows_per_step):
            state = scheme.step(sequences[chosen, row : row + config.rows_per_step], state)
        found[chosen] = np.concatenate([scheme.head_logits(state[-1][0]), *(c for _, c in state)], axis=1)
    return found


def same_bits(found: Floats, expected: Floats) -> bool:
    """Of as many numbers as were found."""
    return found.tobytes() == expected[:, : found.shape[1]].tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", default=["nano", "small", "base"], help="what edgelstm infer takes")
    parser.add_argument("--digits", type=int, default=10_000, help="at most so many (default: %(default)s)")
    parser.add_argument("--only", default="", help="machines with this in their names")
    options = parser.parse_args()
    digits = evaluation_digits().sequences[: options.digits]
    columns = [(model, precision) for model in options.models for precision in PRECISIONS]
    schemes = {(model, precision): scheme_of(open_model(model), precision) for model, precision in columns}
    expected = {column: expected_numbers(scheme, digits) for column, scheme in schemes.items()}

    def sha256(numbers: Floats, column: tuple[str, Precision]) -> str:
        return logits_sha256(numbers[:, : schemes[column].config.n_classes])[:12]

    machines = [machine for machine in MACHINES if options.only in machine.name]
    rows, n_wrong = [["machine", "digits", *(f"{model} {precision}" for model, precision in columns)]], 0
    for n in sorted({min(machine.most, len(digits)) for machine in machines}):
        rows.append(["NumPy", f"{n:,}", *(sha256(expected[column][:n], column) for column in columns)])
    for machine in machines:
        if problem := machine.missing() or machine.lacking():
            rows.append([machine.name, "0", problem, *[""] * (len(columns) - 1)])
            continue
        n, found = min(machine.most, len(digits)), []
        for column in columns:
            print(f"{machine.name}: {' '.join(column)}", file=sys.stderr)
            source = source_of(*column)
            if machine.chip and source.constant_bytes > machine.chip.flash_bytes:
                found.append("too large")
                continue
            try:
                numbers = numbers_on(machine, source, schemes[column].config, digits[:n])
                found.append(sha256(numbers, column))
                wrong = not same_bits(numbers, expected[column][:n])
            except RuntimeError as error:
                found.append(str(error).splitlines()[0])
                wrong = True
            if wrong:
                found[-1], n_wrong = f"WRONG {found[-1]}", n_wrong + 1
        rows.append([machine.name, f"{n:,}", *found])
    print(table(rows))
    sys.exit(f"{n_wrong} differ" if n_wrong else 0)


if __name__ == "__main__":
    main()
