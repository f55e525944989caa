// Vectors of the width that the instruction set has, over rows of sixteen lanes.
//
// Files in this directory are compiled once for each instruction set, with SPARSE_ISA naming their namespace. They use
// nothing of the standard library, nor inline functions of other headers: the linker keeps one copy of such a function
// and could keep this one, for a processor that lacks the set. What they share is static, or lies in the namespace.
#pragma once

#include <cstdint>

#include "core/element.h"
#include "core/layout.h"

// What vectors wider than the instruction set's are passed in does not matter to functions that nobody else calls.
#pragma GCC diagnostic ignored "-Wpsabi"

#ifdef __x86_64__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 about its own AVX-512 intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace sparse {
namespace SPARSE_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kWidth)));
typedef int32_t Ints __attribute__((vector_size(4 * kWidth)));
typedef uint32_t Words __attribute__((vector_size(4 * kWidth)));

// Vectors in blocks, whatever the type of what lies there.
typedef Floats StoredFloats __attribute__((may_alias));
typedef Ints StoredInts __attribute__((may_alias));
typedef Words StoredWords __attribute__((may_alias));

static inline Floats load_floats(const void* from) { return *static_cast<const StoredFloats*>(from); }
static inline Ints load_ints(const void* from) { return *static_cast<const StoredInts*>(from); }
static inline Words load_words(const void* from) { return *static_cast<const StoredWords*>(from); }
static inline void store(void* to, Floats value) { *static_cast<StoredFloats*>(to) = value; }
static inline void store(void* to, Words value) { *static_cast<StoredWords*>(to) = value; }

static inline Floats all(float value) { return value - Floats{}; }

static inline Floats floats(Ints value) { return __builtin_convertvector(value, Floats); }

// The larger or smaller of two numbers; `b` where one of them is not a number.
static inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
static inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }

// Added to a number below 2^22 in magnitude, leaves it rounded (half to even) in the low bits of the sum.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23
constexpr int32_t kRounderBits = 0x4B400000;

// Bytes and the real numbers that they stand for. Four channels share a 32-bit word: see core/layout.h.
class Dequantizer {
 public:
  explicit Dequantizer(const Quantization& from) : scale_(from.scale), zero_point_(from.zero_point) {}
  Floats operator()(Words words, int channel) const {
    return floats(reinterpret_cast<Ints>(words >> (8 * channel) & 255u) - zero_point_) * scale_;
  }

 private:
  float scale_;
  int32_t zero_point_;
};

// Whole numbers (half to even) that a byte holds: what is left of numbers once they have been one. Not a number: the
// least.
class Rounding {
 public:
  explicit Rounding(const Quantization& form)
      : low_(static_cast<float>(-form.zero_point)), high_(static_cast<float>(255 - form.zero_point)) {}
  Floats operator()(Floats steps) const {
    return (smaller(larger(steps, all(low_)), all(high_)) + kRounder) - kRounder;
  }

 private:
  float low_, high_;
};

// round(real / scale) + zero point within a byte, as the low byte of each word; zero for what is not a number.
class Quantizer {
 public:
  explicit Quantizer(const Quantization& to)
      : inverse_(1.0f / to.scale),
        low_(static_cast<float>(-to.zero_point)),
        high_(static_cast<float>(255 - to.zero_point)),
        offset_(kRounderBits - to.zero_point) {}
  Words operator()(Floats real) const {
    const Floats steps = smaller(larger(real * inverse_, all(low_)), all(high_)) + kRounder;
    return reinterpret_cast<Words>(reinterpret_cast<Ints>(steps) - offset_);
  }

 private:
  float inverse_, low_, high_;
  int32_t offset_;
};

}  // namespace SPARSE_ISA
}  // namespace sparse
