// Pools over windows: each tap of the window is a panel.
#include "kernels/lanes/lanes.h"
#include "kernels/lanes/vector.h"

namespace sparse {
namespace SPARSE_ISA {
namespace {

typedef uint8_t Bytes __attribute__((vector_size(4 * kWidth)));
typedef Bytes StoredBytes __attribute__((may_alias));

// `kCount` vectors at once, so that a tap's address is loaded once for all of them.
template <class Stored, int kCount>
void largest(const uint8_t* const* taps, int64_t count, int64_t offset, uint8_t* out) {
  Stored result[kCount];
  for (int i = 0; i < kCount; ++i) result[i] = reinterpret_cast<const Stored*>(taps[0] + offset)[i];
  for (int64_t tap = 1; tap < count; ++tap) {
    const Stored* from = reinterpret_cast<const Stored*>(taps[tap] + offset);
    for (int i = 0; i < kCount; ++i) result[i] = result[i] > from[i] ? result[i] : from[i];
  }
  for (int i = 0; i < kCount; ++i) reinterpret_cast<Stored*>(out + offset)[i] = result[i];
}

template <class Stored>
void largest_rows(const uint8_t* const* taps, int64_t count, int64_t rows, uint8_t* out) {
  constexpr int64_t kBytes = 4 * kWidth;
  int64_t offset = 0;
  for (; offset + 4 * kBytes <= rows * kRowBytes; offset += 4 * kBytes) largest<Stored, 4>(taps, count, offset, out);
  for (; offset < rows * kRowBytes; offset += kBytes) largest<Stored, 1>(taps, count, offset, out);
}

}  // namespace

void max_pool(Element element, const void* const* taps, int64_t count, int64_t rows, void* out) {
  const auto* const* from = reinterpret_cast<const uint8_t* const*>(taps);
  if (element == Element::F32) {
    largest_rows<StoredFloats>(from, count, rows, static_cast<uint8_t*>(out));
  } else {
    largest_rows<StoredBytes>(from, count, rows, static_cast<uint8_t*>(out));
  }
}

void average_pool(const float* const* taps, int64_t count, int64_t rows, const float* weight, float* out) {
  for (int64_t lane = 0; lane < kLanes; lane += kWidth) {
    Floats factor;
    __builtin_memcpy(&factor, weight + lane, sizeof factor);
    for (int64_t i = lane; i < rows * kLanes; i += kLanes) {
      Floats total = Floats{};
      for (int64_t tap = 0; tap < count; ++tap) total += load_floats(taps[tap] + i);
      store(out + i, total * factor);
    }
  }
}

void average_pool_q8(const uint8_t* const* taps, int64_t count, int64_t rows, const float* weight,
                     const Quantization& from, const Quantization& to, uint8_t* out) {
  const Quantizer quantized(to);
  const int32_t zero_points = static_cast<int32_t>(count) * from.zero_point;
  for (int64_t lane = 0; lane < kLanes; lane += kWidth) {
    Floats factor;
    __builtin_memcpy(&factor, weight + lane, sizeof factor);
    factor *= from.scale;
    for (int64_t byte = lane * 4; byte < rows * kRowBytes; byte += kRowBytes) {
      Words totals[4] = {};
      for (int64_t tap = 0; tap < count; ++tap) {
        const Words words = load_words(taps[tap] + byte);
        for (int i = 0; i < 4; ++i) totals[i] += words >> (8 * i) & 255u;
      }
      Words result = Words{};
      for (int i = 0; i < 4; ++i) {
        result |= quantized(floats(reinterpret_cast<Ints>(totals[i]) - zero_points) * factor) << (8 * i);
      }
      store(out + byte, result);
    }
  }
}

}  // namespace SPARSE_ISA
}  // namespace sparse
