/* ---- The engine: the same for every model. --------------------------------------------------------------------
 *
 * All arithmetic is exact integers, or one rounded float operation after the other in the order written; so every
 * instruction set, compiler and optimisation level gives the same bits. Units stand in blocks of 16 (the last one may
 * be smaller, a multiple of 4), a block's weights in groups of 4 columns: [group][gate i, o, f, g][unit][column].
 * A vector holds MODEL_LANES units of one gate.
 */
#if defined(__FAST_MATH__)
#error "compile without -ffast-math: it would change the answers"
#endif
#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ < 0 || __FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2)
#error "floats must be computed as floats: on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
/* gcc's vectorizer makes fused instructions of alternating sums and differences even so: it is not let */
#pragma GCC optimize("fp-contract=off,no-tree-vectorize")
#endif

/* -DMODEL_LANES=1 takes plain C where there would be vectors. */
#if !defined(MODEL_LANES) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 9))
#if defined(__AVX512VNNI__) && defined(__AVX512VL__) && defined(__AVX512BW__)
#define MODEL_LANES 16
#include <immintrin.h>
#elif defined(__AVX2__)
#define MODEL_LANES 8
#include <immintrin.h>
#elif defined(__SSE2__)
#define MODEL_LANES 4
#include <emmintrin.h>
#elif defined(__aarch64__) && defined(__ARM_NEON)
#define MODEL_LANES 4
#include <arm_neon.h>
#elif defined(__wasm_simd128__)
#define MODEL_LANES 4
#include <wasm_simd128.h>
#endif
#endif
#if !defined(MODEL_LANES)
#define MODEL_LANES 1
#endif
#if MODEL_LANES > 1
#define MODEL_INLINE static inline __attribute__((always_inline))
#else
#define MODEL_INLINE static inline
#endif
/* Two products in one instruction: an Arm without NEON. */
#if MODEL_LANES == 1 && defined(__ARM_FEATURE_SIMD32) && defined(__ARMEL__)
#define MODEL_DSP 1
#include <arm_acle.h>
#else
#define MODEL_DSP 0
#endif

#if MODEL_LANES > 1
typedef float model_floats __attribute__((vector_size(4 * MODEL_LANES)));
typedef int32_t model_ints __attribute__((vector_size(4 * MODEL_LANES)));
typedef uint32_t model_bits __attribute__((vector_size(4 * MODEL_LANES)));
#define MODEL_TO_FLOATS(ints) __builtin_convertvector(ints, model_floats)
#define MODEL_BITS_OF(floats) ((model_bits)(floats))
#define MODEL_FLOATS_OF(bits) ((model_floats)(bits))
#else
typedef float model_floats;
typedef int32_t model_ints;
typedef uint32_t model_bits;
#define MODEL_TO_FLOATS(ints) ((float)(ints))
MODEL_INLINE uint32_t MODEL_BITS_OF(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}
MODEL_INLINE float MODEL_FLOATS_OF(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
#endif

#if defined(__GNUC__)
#define MODEL_ALIGNED __attribute__((aligned(64)))
#else
#define MODEL_ALIGNED
#endif

#define MODEL_MAGIC 12582912.0f /* 1.5 * 2^23: added and taken away again, it rounds to an integer */

/* Of `n` units, the other lanes are zero. */
MODEL_INLINE model_floats model_load(const float *from, int n) {
  model_floats to;
  if (n == MODEL_LANES) {
    memcpy(&to, from, sizeof to);
    return to;
  }
  memset(&to, 0, sizeof to);
  memcpy(&to, from, (size_t)n * 4);
  return to;
}

MODEL_INLINE void model_store(float *to, model_floats from, int n) {
  if (n == MODEL_LANES) {
    memcpy(to, &from, sizeof from);
  } else {
    memcpy(to, &from, (size_t)n * 4);
  }
}

MODEL_INLINE model_floats model_zero(void) {
  model_floats zero;
  memset(&zero, 0, sizeof zero);
  return zero;
}

/* From -40 to 40; what is no number becomes -40. */
MODEL_INLINE model_floats model_limited(model_floats t) {
#if MODEL_LANES == 16
  /* with a mask of all: g++ warns of the other form's own header */
  const __m512 most = _mm512_maskz_max_ps((__mmask16)65535, (__m512)t, _mm512_set1_ps(-40.0f));
  return (model_floats)_mm512_maskz_min_ps((__mmask16)65535, most, _mm512_set1_ps(40.0f));
#elif MODEL_LANES == 8
  return (model_floats)_mm256_min_ps(_mm256_max_ps((__m256)t, _mm256_set1_ps(-40.0f)), _mm256_set1_ps(40.0f));
#elif MODEL_LANES == 4 && defined(__SSE2__)
  return (model_floats)_mm_min_ps(_mm_max_ps((__m128)t, _mm_set1_ps(-40.0f)), _mm_set1_ps(40.0f));
#elif MODEL_LANES == 4 && defined(__ARM_NEON)
  return (model_floats)vminnmq_f32(vmaxnmq_f32((float32x4_t)t, vdupq_n_f32(-40.0f)), vdupq_n_f32(40.0f));
#elif MODEL_LANES == 4
  return (model_floats)wasm_f32x4_pmin(wasm_f32x4_splat(40.0f), wasm_f32x4_pmax(wasm_f32x4_splat(-40.0f), (v128_t)t));
#else
  t = t > -40.0f ? t : -40.0f;
  return t < 40.0f ? t : 40.0f;
#endif
}

/* 2^t: a polynomial for the part behind the point, the whole part into the exponent. */
MODEL_INLINE model_floats model_exp2(model_floats t) {
  model_floats whole, r, r2, p;
  t = model_limited(t);
  whole = t + MODEL_MAGIC;
  r = t - (whole - MODEL_MAGIC);
  r2 = r * r;
  p = (1.0f + r * @EXP2_1@) + r2 * ((@EXP2_2@ + r * @EXP2_3@) + r2 * (@EXP2_4@ + r * @EXP2_5@));
  return MODEL_FLOATS_OF(MODEL_BITS_OF(p) + (MODEL_BITS_OF(whole) << 23));
}

/* t: what the gates i, o, f, g are, times -log2(e), g's times -2 log2(e). sigmoid and tanh are quotients of 2^t;
 * their products are taken together, so that one division makes c and one makes h. Returns h. */
MODEL_INLINE model_floats model_cell(const model_floats *t, float *c_at, int n) {
  model_floats c = model_load(c_at, n);
  model_floats e_i = model_exp2(t[0]), e_o = model_exp2(t[1]), e_f = model_exp2(t[2]), e_g = model_exp2(t[3]);
  model_floats a = (1.0f + e_i) * (1.0f + e_g), e_c;
  c = (c * a + (1.0f - e_g) * (1.0f + e_f)) / (a * (1.0f + e_f));
  model_store(c_at, c, n);
  e_c = model_exp2(c * @TANH_FACTOR@);
  return (1.0f - e_c) / ((1.0f + e_o) * (1.0f + e_c));
}

@IF int8
/* ---- int8 ---- */

/* What the weights are multiplied with: model_plain from 0 to 255, model_signed from -128 to 127, as the instructions
 * take it. VNNI has unsigned bytes only: there signed ones are 128 too large, for which model_unshift makes up. */
#if MODEL_LANES == 16 || (MODEL_LANES == 8 && defined(__AVXVNNI__))
#define MODEL_SHIFT 128
typedef uint8_t model_plain;
typedef uint8_t model_signed;
#elif MODEL_LANES == 8
#define MODEL_SHIFT 0
#define MODEL_OWN_SIGNED 1
typedef uint8_t model_plain;
typedef int8_t model_signed;
#elif defined(__ARM_FEATURE_DOTPROD) && MODEL_LANES == 4
#define MODEL_SHIFT 0
#define MODEL_OWN_SIGNED 1
typedef int16_t model_plain;
typedef int8_t model_signed;
#else
#define MODEL_SHIFT 0
typedef int16_t model_plain;
typedef int16_t model_signed;
#endif
/* Where a column stands in its group of four: 0 2 1 3, the pairs that one instruction multiplies, or as it was. */
#if MODEL_DSP
#define MODEL_PLACE(column) (((column) & ~3) | (((column) & 1) << 1) | (((column) >> 1) & 1))
#else
#define MODEL_PLACE(column) (column)
#endif

/* sums[gate] = weights times x, for `n` of the units of a block of `units`: over `count` groups of columns, those in
 * `which`, or the first ones. */
MODEL_INLINE void model_dot(model_ints *sums, const int8_t *weights, const model_plain *x, const uint16_t *which,
                            int count, int units, int n) {
  int k, gate;
#if MODEL_LANES == 16
  const __mmask16 lanes = (__mmask16)((1u << n) - 1);
  __m512i a[4], b[4];
  for (gate = 0; gate < 4; gate++) a[gate] = b[gate] = _mm512_setzero_si512();
  for (k = 0; k + 1 < count; k += 2) { /* two sums of each, so that none waits for itself */
    const int g = which ? which[k] : k, g2 = which ? which[k + 1] : k + 1;
    const int8_t *w = weights + (size_t)g * 16 * units, *w2 = weights + (size_t)g2 * 16 * units;
    int32_t four, four2;
    memcpy(&four, x + 4 * g, 4);
    memcpy(&four2, x + 4 * g2, 4);
    for (gate = 0; gate < 4; gate++) {
      const __m512i v = n == 16 ? _mm512_loadu_si512(w + 4 * gate * units)
                                : _mm512_maskz_loadu_epi32(lanes, w + 4 * gate * units);
      const __m512i v2 = n == 16 ? _mm512_loadu_si512(w2 + 4 * gate * units)
                                 : _mm512_maskz_loadu_epi32(lanes, w2 + 4 * gate * units);
      a[gate] = _mm512_dpbusd_epi32(a[gate], _mm512_set1_epi32(four), v);
      b[gate] = _mm512_dpbusd_epi32(b[gate], _mm512_set1_epi32(four2), v2);
    }
  }
  if (k < count) {
    const int g = which ? which[k] : k;
    const int8_t *w = weights + (size_t)g * 16 * units;
    int32_t four;
    memcpy(&four, x + 4 * g, 4);
    for (gate = 0; gate < 4; gate++) {
      const __m512i v = _mm512_maskz_loadu_epi32(lanes, w + 4 * gate * units);
      a[gate] = _mm512_dpbusd_epi32(a[gate], _mm512_set1_epi32(four), v);
    }
  }
  for (gate = 0; gate < 4; gate++) sums[gate] = (model_ints)_mm512_add_epi32(a[gate], b[gate]);
#elif MODEL_LANES == 8
  const __m256i lanes = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  __m256i a[4];
  for (gate = 0; gate < 4; gate++) a[gate] = _mm256_setzero_si256();
  for (k = 0; k < count; k++) {
    const int g = which ? which[k] : k;
    const int8_t *w = weights + (size_t)g * 16 * units;
    int32_t four;
    memcpy(&four, x + 4 * g, 4);
    for (gate = 0; gate < 4; gate++) {
      const void *at = w + 4 * gate * units;
      const __m256i v = n == 8 ? _mm256_loadu_si256((const __m256i *)at) : _mm256_maskload_epi32((const int *)at, lanes);
#if defined(__AVXVNNI__)
      a[gate] = _mm256_dpbusd_avx_epi32(a[gate], _mm256_set1_epi32(four), v);
#else
      /* one product of a byte and a weight fits 16 bits, the sum of two may not: columns 0 and 2, then 1 and 3 */
      const __m256i even = _mm256_maddubs_epi16(_mm256_set1_epi32(four & 0x00ff00ff), v);
      const __m256i odd = _mm256_maddubs_epi16(_mm256_set1_epi32((int32_t)((uint32_t)four & 0xff00ff00u)), v);
      a[gate] = _mm256_add_epi32(a[gate], _mm256_madd_epi16(even, _mm256_set1_epi16(1)));
      a[gate] = _mm256_add_epi32(a[gate], _mm256_madd_epi16(odd, _mm256_set1_epi16(1)));
#endif
    }
  }
  for (gate = 0; gate < 4; gate++) sums[gate] = (model_ints)a[gate];
#elif MODEL_LANES == 4 && defined(__SSE2__)
  __m128i a[4], b[4];
  for (gate = 0; gate < 4; gate++) a[gate] = b[gate] = _mm_setzero_si128();
  for (k = 0; k < count; k++) {
    const int g = which ? which[k] : k;
    const int8_t *w = weights + (size_t)g * 16 * units;
    const __m128i four = _mm_loadl_epi64((const __m128i *)(const void *)(x + 4 * g));
    const __m128i twice = _mm_unpacklo_epi64(four, four);
    for (gate = 0; gate < 4; gate++) {
      const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(w + 4 * gate * units));
      const __m128i sign = _mm_cmpgt_epi8(_mm_setzero_si128(), v);
      a[gate] = _mm_add_epi32(a[gate], _mm_madd_epi16(_mm_unpacklo_epi8(v, sign), twice));
      b[gate] = _mm_add_epi32(b[gate], _mm_madd_epi16(_mm_unpackhi_epi8(v, sign), twice));
    }
  }
  for (gate = 0; gate < 4; gate++) { /* a: units 0 and 1, b: 2 and 3, each as two halves */
    const __m128 low = _mm_castsi128_ps(a[gate]), high = _mm_castsi128_ps(b[gate]);
    sums[gate] = (model_ints)_mm_add_epi32(_mm_castps_si128(_mm_shuffle_ps(low, high, 0x88)),
                                           _mm_castps_si128(_mm_shuffle_ps(low, high, 0xdd)));
  }
  (void)n;
#elif MODEL_LANES == 4 && defined(__ARM_NEON)
  int32x4_t a[4][4];
  int unit;
  for (gate = 0; gate < 4; gate++)
    for (unit = 0; unit < 4; unit++) a[gate][unit] = vdupq_n_s32(0);
  for (k = 0; k < count; k++) {
    const int g = which ? which[k] : k;
    const int8_t *w = weights + (size_t)g * 16 * units;
    const int16x4_t four = vld1_s16(x + 4 * g);
    for (gate = 0; gate < 4; gate++) {
      const int8x16_t v = vld1q_s8(w + 4 * gate * units);
      const int16x8_t low = vmovl_s8(vget_low_s8(v)), high = vmovl_s8(vget_high_s8(v));
      a[gate][0] = vmlal_s16(a[gate][0], vget_low_s16(low), four);
      a[gate][1] = vmlal_s16(a[gate][1], vget_high_s16(low), four);
      a[gate][2] = vmlal_s16(a[gate][2], vget_low_s16(high), four);
      a[gate][3] = vmlal_s16(a[gate][3], vget_high_s16(high), four);
    }
  }
  for (gate = 0; gate < 4; gate++)
    sums[gate] = (model_ints)vpaddq_s32(vpaddq_s32(a[gate][0], a[gate][1]), vpaddq_s32(a[gate][2], a[gate][3]));
  (void)n;
#elif MODEL_LANES == 4
  v128_t a[4], b[4];
  for (gate = 0; gate < 4; gate++) a[gate] = b[gate] = wasm_i32x4_splat(0);
  for (k = 0; k < count; k++) {
    const int g = which ? which[k] : k;
    const int8_t *w = weights + (size_t)g * 16 * units;
    const v128_t twice = wasm_v128_load64_splat(x + 4 * g);
    for (gate = 0; gate < 4; gate++) {
      const v128_t v = wasm_v128_load(w + 4 * gate * units);
      a[gate] = wasm_i32x4_add(a[gate], wasm_i32x4_dot_i16x8(wasm_i16x8_extend_low_i8x16(v), twice));
      b[gate] = wasm_i32x4_add(b[gate], wasm_i32x4_dot_i16x8(wasm_i16x8_extend_high_i8x16(v), twice));
    }
  }
  for (gate = 0; gate < 4; gate++)
    sums[gate] = (model_ints)wasm_i32x4_add(wasm_i32x4_shuffle(a[gate], b[gate], 0, 2, 4, 6),
                                            wasm_i32x4_shuffle(a[gate], b[gate], 1, 3, 5, 7));
  (void)n;
#elif MODEL_DSP
  int32_t i = 0, o = 0, f = 0, c = 0;
  for (k = 0; k < count; k++) {
    const int g = which ? which[k] : k;
    const int8_t *w = weights + (size_t)g * 16 * units;
    int32_t even, odd;
    uint32_t four;
    memcpy(&even, x + 4 * g, 4);
    memcpy(&odd, x + 4 * g + 2, 4);
#define MODEL_ADD(sum, at)                                           \
  memcpy(&four, w + 4 * (at) * units, 4);                            \
  sum = __smlad(__sxtb16((int8x4_t)four), even, sum);                \
  sum = __smlad(__sxtb16((int8x4_t)(four >> 8 | four << 24)), odd, sum);
    MODEL_ADD(i, 0)
    MODEL_ADD(o, 1)
    MODEL_ADD(f, 2)
    MODEL_ADD(c, 3)
#undef MODEL_ADD
  }
  sums[0] = i, sums[1] = o, sums[2] = f, sums[3] = c;
  (void)n, (void)gate;
#else
  for (gate = 0; gate < 4; gate++) {
    int32_t sum = 0;
    for (k = 0; k < count; k++) {
      const int g = which ? which[k] : k;
      const int8_t *w = weights + ((size_t)g * 4 + gate) * 4 * units;
      const model_plain *four = x + 4 * g;
      sum += w[0] * four[0] + w[1] * four[1] + w[2] * four[2] + w[3] * four[3];
    }
    sums[gate] = sum;
  }
  (void)n;
#endif
}

#if defined(MODEL_OWN_SIGNED)
MODEL_INLINE void model_dot_signed(model_ints *sums, const int8_t *weights, const int8_t *x, int count, int units,
                                   int n) {
  int k, gate;
#if MODEL_LANES == 8
  const __m256i lanes = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  __m256i a[4];
  for (gate = 0; gate < 4; gate++) a[gate] = _mm256_setzero_si256();
  for (k = 0; k < count; k++) {
    const int8_t *w = weights + (size_t)k * 16 * units;
    int32_t four;
    __m256i x4, size;
    memcpy(&four, x + 4 * k, 4);
    x4 = _mm256_set1_epi32(four);
    size = _mm256_abs_epi8(x4);
    for (gate = 0; gate < 4; gate++) {
      const void *at = w + 4 * gate * units;
      const __m256i v = n == 8 ? _mm256_loadu_si256((const __m256i *)at) : _mm256_maskload_epi32((const int *)at, lanes);
      /* |x| times the weight with x's sign: two products of at most 128 * 127 fit 16 bits */
      const __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(v, x4));
      a[gate] = _mm256_add_epi32(a[gate], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
  }
  for (gate = 0; gate < 4; gate++) sums[gate] = (model_ints)a[gate];
#else
  int32x4_t a[4], b[4];
  for (gate = 0; gate < 4; gate++) a[gate] = b[gate] = vdupq_n_s32(0);
  for (k = 0; k < count; k++) {
    const int8_t *w = weights + (size_t)k * 16 * units;
    int32_t four;
    int8x16_t x4;
    memcpy(&four, x + 4 * k, 4);
    x4 = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (gate = 0; gate < 4; gate++) {
      int32x4_t *sum = k & 1 ? b + gate : a + gate;
      *sum = vdotq_s32(*sum, vld1q_s8(w + 4 * gate * units), x4);
    }
  }
  for (gate = 0; gate < 4; gate++) sums[gate] = (model_ints)vaddq_s32(a[gate], b[gate]);
  (void)n;
#endif
}
#else
#define model_dot_signed(sums, weights, x, count, units, n) \
  model_dot(sums, weights, x, (const uint16_t *)0, count, units, n)
#endif

/* Makes up for MODEL_SHIFT; `shifts` are -128 times the sums of each row's weights. */
MODEL_INLINE void model_unshift(model_ints *sums, const int32_t *shifts, int first, int units, int n) {
#if MODEL_SHIFT
  model_ints shift;
  int gate;
  for (gate = 0; gate < 4; gate++) {
    memset(&shift, 0, sizeof shift);
    memcpy(&shift, shifts + first + gate * units, (size_t)n * 4);
    sums[gate] += shift;
  }
#else
  (void)sums, (void)shifts, (void)first, (void)units, (void)n;
#endif
}

/* The lowest byte of each. */
MODEL_INLINE void model_store_bytes(int8_t *to, model_bits from, int n) {
#if MODEL_LANES == 16
  const __m128i bytes = _mm512_maskz_cvtepi32_epi8((__mmask16)65535, (__m512i)from);
  memcpy(to, &bytes, (size_t)n);
#elif MODEL_LANES == 8
  const __m256i low = _mm256_and_si256((__m256i)from, _mm256_set1_epi32(255));
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
  const __m128i bytes = _mm_packus_epi16(words, words);
  memcpy(to, &bytes, (size_t)n);
#elif MODEL_LANES == 4 && defined(__SSE2__)
  const __m128i words = _mm_packs_epi32(_mm_and_si128((__m128i)from, _mm_set1_epi32(255)), _mm_setzero_si128());
  const __m128i bytes = _mm_packus_epi16(words, words);
  memcpy(to, &bytes, (size_t)n);
#else
  uint32_t bits[MODEL_LANES];
  int unit;
  memcpy(bits, &from, sizeof from);
  for (unit = 0; unit < n; unit++) to[unit] = (int8_t)(uint8_t)bits[unit];
#endif
}

/* A block of units: its c and h after one step. x is `plain`, of which only the groups in `which` are not zero, and
 * `high`, which counts 256 times where both are there; either may be missing. `seen` is h before it. */
MODEL_INLINE void model_block(const int8_t *weights, const float *scales, const int32_t *shifts, int shift,
                              int x_groups, int h_groups, int units, const model_plain *plain, const uint16_t *which, int count,
                              const model_signed *high, const model_signed *seen, float *c, int8_t *h) {
  const int8_t *recurrent = weights + (size_t)x_groups * 16 * units;
  int at, gate;
  for (at = 0; at < units; at += MODEL_LANES) {
    const int n = units - at < MODEL_LANES ? units - at : MODEL_LANES;
    model_ints sums[4];
    model_floats t[4], after;
    for (gate = 0; gate < 4; gate++) t[gate] = model_zero();
    if (high) {
      model_dot_signed(sums, weights + 4 * at, high, x_groups, units, n);
      model_unshift(sums, shifts, shift + at, units, n);
      for (gate = 0; gate < 4; gate++) t[gate] = MODEL_TO_FLOATS(sums[gate]);
    }
    if (plain) {
      model_dot(sums, weights + 4 * at, plain, which, count, units, n);
      for (gate = 0; gate < 4; gate++) t[gate] = t[gate] * 256.0f + MODEL_TO_FLOATS(sums[gate]);
    }
    for (gate = 0; gate < 4; gate++) t[gate] = t[gate] * model_load(scales + gate * units + at, n);
    model_dot_signed(sums, recurrent + 4 * at, seen, h_groups, units, n);
    model_unshift(sums, shifts, shift + (high ? 4 * units : 0) + at, units, n);
    for (gate = 0; gate < 4; gate++) {
      t[gate] = t[gate] + MODEL_TO_FLOATS(sums[gate]) * model_load(scales + (4 + gate) * units + at, n);
      t[gate] = t[gate] + model_load(scales + (8 + gate) * units + at, n);
    }
    after = model_cell(t, c + at, n) * 127.0f + MODEL_MAGIC; /* the integer nearest to 127 h is its lowest byte */
    model_store_bytes(h + at, MODEL_BITS_OF(after), n);
  }
}

MODEL_INLINE void model_read_h(model_signed *to, const int8_t *h, int units) {
  int unit;
  for (unit = 0; unit < units; unit++) to[MODEL_PLACE(unit)] = (model_signed)(h[unit] + MODEL_SHIFT);
}

/* One step of a layer: `units` is a multiple of 4. */
MODEL_INLINE void model_layer(const int8_t *weights, const float *scales, const int32_t *shifts, int x_groups,
                              int units, const model_plain *plain, const uint16_t *which, int count,
                              const model_signed *high, float *c, int8_t *h) {
  model_signed seen[MODEL_MAX_UNITS];
  int8_t after[MODEL_MAX_UNITS];
  const int h_groups = units / 4;
  int unit;
  model_read_h(seen, h, units);
  for (unit = 0; unit + 16 <= units; unit += 16)
    model_block(weights + (size_t)(x_groups + h_groups) * 16 * unit, scales + 12 * unit,
                shifts, (high ? 8 : 4) * unit, x_groups, h_groups, 16, plain, which, count, high,
                seen, c + unit, after + unit);
  if (units % 16)
    model_block(weights + (size_t)(x_groups + h_groups) * 16 * unit, scales + 12 * unit,
                shifts, (high ? 8 : 4) * unit, x_groups, h_groups, units % 16, plain, which, count, high,
                seen, c + unit, after + unit);
  memcpy(h, after, (size_t)units);
}

@IF pixels
/* The pixels of a step, and `which` groups of four are not all zero; returns how many these are. */
MODEL_INLINE int model_read_pixels(model_plain *plain, uint16_t *which, const uint8_t *pixels, int columns) {
  int column, at, count = 0;
  for (column = 0; column < columns; column += 4) {
    uint8_t four[4] = {0, 0, 0, 0};
    uint32_t together;
    memcpy(four, pixels + column, columns - column < 4 ? (size_t)(columns - column) : 4);
    memcpy(&together, four, 4);
    for (at = 0; at < 4; at++) plain[MODEL_PLACE(column + at)] = four[at];
    which[count] = (uint16_t)(column / 4);
    count += together != 0;
  }
  return count;
}
@END

@IF values
/* Values of a step as integers of 1/256 of a standard deviation: a high and a low byte. */
MODEL_INLINE void model_read_values(model_plain *low, model_signed *high, const float *values, const float *mean,
                                    const float *scale, int rows, int columns) {
  int row, column, at = 0;
  for (row = 0; row < rows; row++) {
    for (column = 0; column < columns; column++, at++) {
      float z = (values[at] - mean[column]) * scale[column] * 256.0f;
      uint32_t integer;
      z = z > -32767.0f ? z : -32767.0f;
      z = z < 32767.0f ? z : 32767.0f;
      z = z + MODEL_MAGIC;
      memcpy(&integer, &z, 4);
      integer += 32768u; /* no longer negative, but for the bits of MODEL_MAGIC, which are higher than these 16 */
      high[MODEL_PLACE(at)] = (model_signed)((int)(integer >> 8 & 255) - 128 + MODEL_SHIFT);
      low[MODEL_PLACE(at)] = (model_plain)(integer & 255);
    }
  }
  for (; at % 4; at++) {
    high[MODEL_PLACE(at)] = (model_signed)MODEL_SHIFT;
    low[MODEL_PLACE(at)] = 0;
  }
}
@END

MODEL_INLINE void model_head(float *logits, const int8_t *weights, const float *scales, const float *bias,
                             const int8_t *h, int units, int classes) {
  int k, unit;
  for (k = 0; k < classes; k++) {
    int32_t sum = 0;
    for (unit = 0; unit < units; unit++) sum += weights[(size_t)k * units + unit] * h[unit];
    logits[k] = (float)sum * scales[k] + bias[k];
  }
}
@END
@IF fp32
/* ---- fp32 ---- */

/* Adds weights times x, the columns in order, those with an even and an odd number apart. */
MODEL_INLINE void model_add(model_floats *even, model_floats *odd, const float *weights, const float *x,
                            const uint16_t *which, int count, int units, int n) {
  int k, gate;
  for (k = 0; k < count; k++) {
    const int g = which ? which[k] : k;
    const float *w = weights + (size_t)g * 16 * units;
    for (gate = 0; gate < 4; gate++) {
      even[gate] = even[gate] + model_load(w + gate * units, n) * x[4 * g];
      odd[gate] = odd[gate] + model_load(w + (4 + gate) * units, n) * x[4 * g + 1];
      even[gate] = even[gate] + model_load(w + (8 + gate) * units, n) * x[4 * g + 2];
      odd[gate] = odd[gate] + model_load(w + (12 + gate) * units, n) * x[4 * g + 3];
    }
  }
}

MODEL_INLINE void model_block(const float *weights, const float *bias, int x_groups, int h_groups, int units,
                              const float *x, const uint16_t *which, int count, const float *seen, float *c, float *h) {
  int at, gate;
  for (at = 0; at < units; at += MODEL_LANES) {
    const int n = units - at < MODEL_LANES ? units - at : MODEL_LANES;
    model_floats even[4], odd[4], t[4];
    for (gate = 0; gate < 4; gate++) even[gate] = odd[gate] = model_zero();
    model_add(even, odd, weights + at, x, which, count, units, n);
    model_add(even, odd, weights + (size_t)x_groups * 16 * units + at, seen, (const uint16_t *)0, h_groups, units, n);
    for (gate = 0; gate < 4; gate++)
      t[gate] = ((even[gate] + odd[gate]) + model_load(bias + gate * units + at, n)) *
                (gate < 3 ? @FACTOR@ : @TANH_FACTOR@);
    model_store(h + at, model_cell(t, c + at, n), n);
  }
}

/* One step of a layer: `units` is a multiple of 4. */
MODEL_INLINE void model_layer(const float *weights, const float *bias, int x_groups, int units, const float *x,
                              const uint16_t *which, int count, float *c, float *h) {
  float after[MODEL_MAX_UNITS];
  const int h_groups = units / 4;
  int unit;
  for (unit = 0; unit + 16 <= units; unit += 16)
    model_block(weights + (size_t)(x_groups + h_groups) * 16 * unit, bias + 4 * unit, x_groups, h_groups, 16, x, which,
                count, h, c + unit, after + unit);
  if (units % 16)
    model_block(weights + (size_t)(x_groups + h_groups) * 16 * unit, bias + 4 * unit, x_groups, h_groups, units % 16,
                x, which, count, h, c + unit, after + unit);
  memcpy(h, after, (size_t)units * 4);
}

@IF pixels
/* The pixels of a step, and `which` groups of four are not all zero; returns how many these are. */
MODEL_INLINE int model_read_pixels(float *x, uint16_t *which, const uint8_t *pixels, int columns) {
  int column, count = 0;
  for (column = columns & ~3; column < ((columns + 3) & ~3); column++) x[column] = 0.0f;
  for (column = 0; column < columns; column++) x[column] = (float)pixels[column];
  for (column = 0; column < columns; column += 4) {
    which[count] = (uint16_t)(column / 4);
    count += x[column] + x[column + 1] + x[column + 2] + x[column + 3] != 0.0f;
  }
  return count;
}
@END

@IF values
/* Values of a step, less their columns' means, over their standard deviations. */
MODEL_INLINE void model_read_values(float *x, const float *values, const float *mean, const float *scale, int rows,
                                    int columns) {
  int row, column, at = 0;
  for (row = 0; row < rows; row++)
    for (column = 0; column < columns; column++, at++) x[at] = (values[at] - mean[column]) * scale[column];
  for (; at % 4; at++) x[at] = 0.0f;
}
@END

MODEL_INLINE void model_head(float *logits, const float *weights, const float *bias, const float *h, int units,
                             int classes) {
  int k, unit;
  for (k = 0; k < classes; k++) logits[k] = bias[k];
  for (unit = 0; unit < units; unit++)
    for (k = 0; k < classes; k++) logits[k] = logits[k] + h[unit] * weights[(size_t)unit * classes + k];
}
@END
