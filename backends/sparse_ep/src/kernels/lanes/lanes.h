// The operations of LaneOps (kernels/lane_ops.h) in the instruction set at hand.
#pragma once

#include "kernels/lane_ops.h"

namespace sparse {
namespace SPARSE_ISA {

// Layout's own functions are inline, and so must not be used here: see vector.h.
static inline int64_t rows_of(const Layout& layout) {
  return layout.element == Element::F32 ? layout.channels : (layout.channels + 3) / 4;
}

void to_blocks(const Layout& layout, const Strides& strides, const void* outer, bool is_signed, uint32_t fill,
               int64_t first, int64_t last, void* blocks);
void from_blocks(const Layout& layout, const Strides& strides, const void* blocks, bool is_signed, int64_t first,
                 int64_t last, void* outer);

void pack(const void* blocks, int64_t block_bytes, int64_t rows, const PackSource* sources, int64_t count,
          uint32_t fill, void* panel);

void max_pool(Element element, const void* const* taps, int64_t count, int64_t rows, void* out);
void average_pool(const float* const* taps, int64_t count, int64_t rows, const float* weight, float* out);
void average_pool_q8(const uint8_t* const* taps, int64_t count, int64_t rows, const float* weight,
                     const Quantization& from, const Quantization& to, uint8_t* out);
void global_average(const Layout& in, const void* blocks, const Quantization& from, const Quantization& to,
                    const Layout& out, int64_t first_image, int64_t last_image, void* result);

void sum(const float* a, const float* b, int64_t rows, const Activation& activation, float* out);
void sum_q8(const uint8_t* a, const Quantization& qa, const uint8_t* b, const Quantization& qb, int64_t rows,
            const Activation& activation, const Quantization& to, uint8_t* out);
void activate(const float* in, int64_t rows, const Activation& activation, float* out);
void activate_q8(const uint8_t* in, const Quantization& from, int64_t rows, const Activation& activation,
                 const Quantization& to, uint8_t* out);

void layer_norm(const float* in, int64_t rows, const float* scale, const float* bias, float epsilon, float* out);

void finish(const int32_t* sums, int64_t outputs, const Finish& how, float* out);
void finish_q8(const int32_t* sums, int64_t outputs, const Finish& how, const Quantization& to, uint8_t* out);

void quantize(const float* in, int64_t channels, const Quantization& to, uint8_t* out);
void dequantize(const uint8_t* in, const Quantization& from, int64_t channels, float* out);

}  // namespace SPARSE_ISA
}  // namespace sparse
