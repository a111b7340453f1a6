/* The demo page's engine: edgelstm/native/engine.h for int8 models of pixels, of any size up to the two below.
 *
 * `make wasm` compiles it to static/engine.wasm. What it works on, the page lays into its memory, from the address that
 * `start` gives on: a model as edgelstm/web/weights.py writes it, its state (of each layer `units` floats c, then `units`
 * bytes h; zeros before the first row), a step's pixels, and room for the logits.
 */
#include <stddef.h>
#include <stdint.h>

#define memcpy __builtin_memcpy
#define memset __builtin_memset
#define MODEL_MAX_UNITS 512
#define MODEL_MAX_COLUMNS 1024 /* pixels of a step */

#include "engine.h"

#define EXPORTED(name) __attribute__((export_name(name)))

typedef struct {
  int32_t layers, columns, units, classes; /* units: a multiple of 4 */
} model_sizes;

extern uint8_t __heap_base; /* the linker's: memory that nothing else uses begins here */

EXPORTED("start") uint8_t *model_start(void) { return &__heap_base; }

/* Groups of four columns that a layer has weights for. */
static int model_groups(const model_sizes *model, int layer) {
  return (layer ? model->units : model->columns + 3) / 4 + model->units / 4;
}

EXPORTED("push") void model_push(const model_sizes *model, uint8_t *state, const uint8_t *pixels) {
  static model_plain x[MODEL_MAX_COLUMNS];
  static uint16_t which[MODEL_MAX_COLUMNS / 4];
  static model_signed below[MODEL_MAX_UNITS];
  const int units = model->units, count = model_read_pixels(x, which, pixels, model->columns);
  const int8_t *weights = (const int8_t *)(model + 1);
  int layer;
  for (layer = 0; layer < model->layers; layer++) {
    const int groups = model_groups(model, layer);
    const float *scales = (const float *)(weights + (size_t)groups * 16 * units);
    float *c = (float *)state;
    int8_t *h = (int8_t *)(c + units);
    model_layer(weights, scales, (const int32_t *)0, groups - units / 4, units, layer ? (const model_plain *)0 : x, which,
                count, layer ? below : (const model_signed *)0, c, h);
    model_read_h(below, h, units);
    weights = (const int8_t *)(scales + 12 * units);
    state = (uint8_t *)(h + units);
  }
}

EXPORTED("logits") void model_logits(const model_sizes *model, const uint8_t *state, float *logits) {
  const int units = model->units, classes = model->classes;
  const int8_t *h = (const int8_t *)state + (size_t)(5 * model->layers - 1) * units;
  const int8_t *weights = (const int8_t *)(model + 1);
  const float *scales;
  int layer;
  for (layer = 0; layer < model->layers; layer++) weights += (size_t)(model_groups(model, layer) * 16 + 48) * units;
  scales = (const float *)(weights + (size_t)classes * units);
  model_head(logits, weights, scales, scales + classes, h, units, classes);
}
