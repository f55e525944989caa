// Operations on blocked tensors (core/layout.h), compiled once for each instruction set from the same sources.
#pragma once

#include <cstdint>

#include "core/element.h"
#include "core/layout.h"

namespace sparse {

enum class Isa : int8_t { Generic = 0, Avx2 = 1, Avx512 = 2 };

// One source block of a packed panel: lane l of the panel is lane lane[l] of the block where bit l of mask is set.
struct PackSource {
  int32_t block;
  uint16_t mask;
  uint8_t lane[16];
};

// How int32 sums become values: activation(sum * multiplier + bias + residual), or with a rounding between:
// activation(scale of the rounding * (sum * multiplier + bias, a whole number within its range) + shift + residual).
struct Finish {
  const float* multiplier;  // for each output channel
  const float* bias;        // for each output channel; never null
  const Quantization* rounding = nullptr;
  const float* shift = nullptr;    // for each output channel; not null if there is a rounding
  const void* residual = nullptr;  // rows of floats, or of bytes in the form of `residual_from`; null: none
  Element residual_element = Element::F32;
  Quantization residual_from;
  Activation activation;
};

struct LaneOps {
  // Blocks [first, last) of a tensor from and to the model's own storage. `outer` holds float, uint8 or int8
  // (signed: shift by 128) as layout.element and `is_signed` say. Lanes past the last position, and the channels that
  // fill up a Q8 row, become `fill` (one float, or one byte repeated, as a 32-bit word) when blocks are made.
  // `blocks` and `outer` point to the start of the whole tensor.
  void (*to_blocks)(const Layout& layout, const Strides& strides, const void* outer, bool is_signed, uint32_t fill,
                    int64_t first, int64_t last, void* blocks);
  void (*from_blocks)(const Layout& layout, const Strides& strides, const void* blocks, bool is_signed, int64_t first,
                      int64_t last, void* outer);

  // One panel of `rows` rows: lanes gathered from `count` source blocks, the later one where two set
  // the same lane; lanes that none sets become `fill`.
  void (*pack)(const void* blocks, int64_t block_bytes, int64_t rows, const PackSource* sources, int64_t count,
               uint32_t fill, void* panel);

  // Pools of one output block. taps[t]: panel of the t-th tap, `rows` rows. Average: out = sum * weight[lane].
  // Lanes of padding hold -FLT_MAX (what ONNX Runtime gives for a window of nothing else) or 0 for a maximum, 0 or the
  // zero point for an average. The maximum keeps the later of two taps where one is NaN.
  void (*max_pool)(Element element, const void* const* taps, int64_t count, int64_t rows, void* out);
  void (*average_pool)(const float* const* taps, int64_t count, int64_t rows, const float* weight, float* out);
  void (*average_pool_q8)(const uint8_t* const* taps, int64_t count, int64_t rows, const float* weight,
                          const Quantization& from, const Quantization& to, uint8_t* out);
  // Average over all positions of each image of `in`, into blocks of `out` (h = w = 1, lanes == Pixels).
  void (*global_average)(const Layout& in, const void* blocks, const Quantization& from, const Quantization& to,
                         const Layout& out, int64_t first_image, int64_t last_image, void* result);

  // out = activation(a + b) over `rows` rows; out may be a or b.
  void (*sum)(const float* a, const float* b, int64_t rows, const Activation& activation, float* out);
  void (*sum_q8)(const uint8_t* a, const Quantization& qa, const uint8_t* b, const Quantization& qb, int64_t rows,
                 const Activation& activation, const Quantization& to, uint8_t* out);
  void (*activate)(const float* in, int64_t rows, const Activation& activation, float* out);
  void (*activate_q8)(const uint8_t* in, const Quantization& from, int64_t rows, const Activation& activation,
                      const Quantization& to, uint8_t* out);

  // Normalise every lane of one block over its rows: float64-safe (two passes), scale and bias for each row.
  void (*layer_norm)(const float* in, int64_t rows, const float* scale, const float* bias, float epsilon, float* out);

  // int32 sums [outputs][16] of one block to floats, also in place, or to Q8 rows [(outputs+3)/4][64]; channels that
  // fill up the last row become the zero point.
  void (*finish)(const int32_t* sums, int64_t outputs, const Finish& how, float* out);
  void (*finish_q8)(const int32_t* sums, int64_t outputs, const Finish& how, const Quantization& to, uint8_t* out);

  // One block from floats to bytes and back; channels that fill up the last row become the zero point.
  void (*quantize)(const float* in, int64_t channels, const Quantization& to, uint8_t* out);
  void (*dequantize)(const uint8_t* in, const Quantization& from, int64_t channels, float* out);
};

// The best set that this processor has and `limit` admits.
Isa best_isa(Isa limit = Isa::Avx512);
const LaneOps& lane_ops(Isa isa);

}  // namespace sparse
