// Sums in double precision: the halves of a vector of floats, each as wide as the vector itself.
#pragma once

#include "kernels/lanes/vector.h"

namespace sparse {
namespace SPARSE_ISA {

typedef double HalfDoubles __attribute__((vector_size(4 * kWidth)));

struct Doubles {
  HalfDoubles low, high;

  double operator[](int lane) const { return lane < kWidth / 2 ? low[lane] : high[lane - kWidth / 2]; }
};

static inline Doubles doubles(Floats value) {
#if defined(__AVX512F__)
  const __m512d bits = _mm512_castps_pd(value);
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(value)),
          _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(bits, 1)))};
#elif defined(__AVX2__)
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(value)), _mm256_cvtps_pd(_mm256_extractf128_ps(value, 1))};
#elif defined(__SSE2__)
  return {_mm_cvtps_pd(value), _mm_cvtps_pd(_mm_movehl_ps(value, value))};
#else
  Doubles result;
  for (int i = 0; i < kWidth / 2; ++i) {
    result.low[i] = value[i];
    result.high[i] = value[i + kWidth / 2];
  }
  return result;
#endif
}

static inline Doubles operator+(Doubles a, Doubles b) { return {a.low + b.low, a.high + b.high}; }

}  // namespace SPARSE_ISA
}  // namespace sparse
