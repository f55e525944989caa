// Sums and activations of floats and of bytes.
#include "kernels/lanes/activation.h"
#include "kernels/lanes/lanes.h"

namespace sparse {
namespace SPARSE_ISA {
namespace {

// Each of the four channels in every word of `count` Q8 rows: out = to(value(word, position in the word)).
template <class Value>
void quantize_rows(int64_t count, const Quantization& to, const Value& value, uint8_t* out) {
  const Quantizer quantized(to);
  for (int64_t byte = 0; byte < count * kRowBytes; byte += 4 * kWidth) {
    store(out + byte, quantized(value(byte, 0)) | quantized(value(byte, 1)) << 8 | quantized(value(byte, 2)) << 16 |
                          quantized(value(byte, 3)) << 24);
  }
}

}  // namespace

void sum(const float* a, const float* b, int64_t rows, const Activation& activation, float* out) {
  with_function(activation, [=](auto function) {
    for (int64_t i = 0; i < rows * kLanes; i += kWidth)
      store(out + i, function(load_floats(a + i) + load_floats(b + i)));
  });
}

void activate(const float* in, int64_t rows, const Activation& activation, float* out) {
  with_function(activation, [=](auto function) {
    for (int64_t i = 0; i < rows * kLanes; i += kWidth) store(out + i, function(load_floats(in + i)));
  });
}

void sum_q8(const uint8_t* a, const Quantization& qa, const uint8_t* b, const Quantization& qb, int64_t rows,
            const Activation& activation, const Quantization& to, uint8_t* out) {
  const Dequantizer real_a(qa), real_b(qb);
  with_function(activation, [&](auto function) {
    quantize_rows(
        rows, to,
        [&](int64_t byte, int channel) {
          return function(real_a(load_words(a + byte), channel) + real_b(load_words(b + byte), channel));
        },
        out);
  });
}

void activate_q8(const uint8_t* in, const Quantization& from, int64_t rows, const Activation& activation,
                 const Quantization& to, uint8_t* out) {
  const Dequantizer real(from);
  with_function(activation, [&](auto function) {
    quantize_rows(
        rows, to, [&](int64_t byte, int channel) { return function(real(load_words(in + byte), channel)); }, out);
  });
}

}  // namespace SPARSE_ISA
}  // namespace sparse
