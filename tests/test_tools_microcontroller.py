"""tools/microcontroller.py and its program: a digit read on an emulated Cortex-M, and what that costs."""

from dataclasses import replace

import pytest
from microcontroller import CHIPS, build, flash_bytes, missing, run, source_of

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")
CORTEX_M4 = next(chip for chip in CHIPS if chip.name == "Cortex-M4")
COUNTED = """
#include "digit.h"
int digit_classify(const uint8_t *pixels, float *logits) {
  uint32_t n = 1000000;
  volatile uint32_t taken[50];
  taken[0] = taken[49] = *pixels;
  __asm__ volatile("1: sub %0, #1\\n cmp %0, #0\\n bne 1b" : "+l"(n));
  return logits[0] > 1e30f;
}
int digit_self_test(void) { return @RIGHT@; }
"""


def test_nano_reads_digits_in_16_kb_of_flash_and_600_bytes_of_ram(tmp_path, sample):
    program = build(source_of("nano"), CORTEX_M4, tmp_path)
    found = run(CORTEX_M4, program, sample.sequences[:10])
    assert sample.labels[:10].tolist() == found.classes == found.logits.argmax(1).tolist()
    assert flash_bytes(tmp_path / "digit.o") <= 16_000
    assert flash_bytes(program) <= 16_384
    assert found.ram_bytes <= 600


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_instructions_and_the_stack_are_counted_rightly(tmp_path, sample, chip):
    counted = replace(source_of("nano"), code=COUNTED.replace("@RIGHT@", "1"))
    found = run(chip, build(counted, chip, tmp_path), sample.sequences[:1])
    assert found.instructions == pytest.approx(3_000_000, rel=1e-3)
    assert 200 <= found.ram_bytes <= 240


def test_a_program_whose_self_test_fails_ends_with_a_status(tmp_path, sample):
    wrong = replace(source_of("nano"), code=COUNTED.replace("@RIGHT@", "0"))
    program = build(wrong, CORTEX_M4, tmp_path)
    with pytest.raises(RuntimeError, match="qemu-system-arm ended with 1"):
        run(CORTEX_M4, program, sample.sequences[:1])
