/* A digit on a bare Cortex-M: no operating system, no heap, no printf. All that a program without a board needs.
 *
 * It reads pictures of 784 bytes from stdin until they end, and writes a line for each: the class, the ticks of the
 * processor's clock that it took, the bytes of stack, and the logits' bits. stdin and stdout are the debugger's or the
 * emulator's (semihosting); on a board without one put your sensor and your display in place of `host`.
 *
 *     edgelstm compile nano --name digit
 *     arm-none-eabi-gcc -std=c99 -Os -mthumb -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard -I . -nostartfiles \
 *         -specs=nano.specs -T tools/microcontroller/cortex-m.ld tools/microcontroller/main.c digit.c -o digit.elf
 *     qemu-system-arm -M mps2-an386 -nographic -monitor none -serial none -semihosting-config enable=on,target=native \
 *         -icount shift=0 -kernel digit.elf < picture.raw
 *
 * In that emulator a tick is 40 instructions.
 */
#include <string.h>

#include "digit.h"

extern uint32_t data_begin[], data_end[], data_in_flash[], bss_begin[], bss_end[], stack_top[];
#define SYSTICK ((volatile uint32_t *)0xE000E010) /* control, reload, value: counts down from 2^24 - 1 */
#define CPACR (*(volatile uint32_t *)0xE000ED88)
enum { OPEN = 1, WRITE = 5, READ = 6, EXIT = 0x18, EXIT_FINE = 0x20026, EXIT_WRONG = 0x20023 };
#define PAINT 0xA5C3A5C3u

/* Asks the debugger or emulator to do something. */
static int host(int what, const void *arguments) {
  register int r0 __asm__("r0") = what;
  register const void *r1 __asm__("r1") = arguments;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

static uint32_t opened(uint32_t mode) {
  const uint32_t arguments[] = {(uint32_t) ":tt", mode, 3};
  return (uint32_t)host(OPEN, arguments);
}

static char *hex(char *to, uint32_t number) {
  int shift;
  for (shift = 28; shift >= 0; shift -= 4) *to++ = "0123456789abcdef"[number >> shift & 15];
  *to++ = ' ';
  return to;
}

int main(void) {
  static uint8_t picture[DIGIT_ROWS * DIGIT_COLS];
  static char line[9 * (3 + DIGIT_CLASSES)];
  float logits[DIGIT_CLASSES];
  const uint32_t in = opened(0), out = opened(4);
  const uint32_t read[] = {in, (uint32_t)picture, sizeof picture}, write[] = {out, (uint32_t)line, sizeof line};
  SYSTICK[1] = 0xFFFFFF;
  SYSTICK[0] = 5;
  while (host(READ, read) == 0) {
    uint32_t *top, *at, bits, ticks;
    char *to = line;
    int k;
    __asm__ volatile("mov %0, sp" : "=r"(top));
    for (at = bss_end; at < top; at++) *at = PAINT; /* what the model writes of it is its stack */
    ticks = SYSTICK[2];
    to = hex(to, (uint32_t)digit_classify(picture, logits));
    to = hex(to, (ticks - SYSTICK[2]) & 0xFFFFFF);
    for (at = bss_end; *at == PAINT;) at++;
    to = hex(to, (uint32_t)(top - at) * 4);
    for (k = 0; k < DIGIT_CLASSES; k++) {
      memcpy(&bits, logits + k, 4);
      to = hex(to, bits);
    }
    to[-1] = '\n';
    host(WRITE, write);
  }
  host(EXIT, (const void *)(digit_self_test() ? EXIT_FINE : EXIT_WRONG));
  return 0;
}

/* From reset to main: variables to RAM, zeroes, and the floating-point unit on where there is one. */
void reset(void);
void reset(void) {
  memcpy(data_begin, data_in_flash, (size_t)((char *)data_end - (char *)data_begin));
  memset(bss_begin, 0, (size_t)((char *)bss_end - (char *)bss_begin));
#if defined(__ARM_FP)
  CPACR |= 15u << 20;
  __asm__ volatile("dsb\n isb");
#endif
  main();
  for (;;) continue;
}

static void fault(void) { host(EXIT, (const void *)EXIT_WRONG); }

static const struct {
  void *stack;
  void (*handlers[15])(void);
} vectors __attribute__((section(".vectors"), used)) = {stack_top, {reset, fault, fault, fault, fault, fault, fault}};
