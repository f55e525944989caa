// What the provider runs: a region of the graph as a list of fused layers over values. Knows nothing of ONNX Runtime.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/element.h"

namespace sparse {

struct Value {
  std::string name;  // of the tensor in the model
  Element element = Element::F32;
  Quantization quantization;  // of Q8
  int spatial = 2;            // 2: [N, C, H, W], 1: [N, C, W], 0: tokens [..., C]
  int64_t channels = 0;
};

enum class AutoPad : uint8_t { NotSet, SameUpper, SameLower, Valid };

// Windows of convolutions and pools; of one spatial dimension: index 1, with index 0 neutral.
struct Window {
  int64_t kernel[2] = {1, 1};
  int64_t strides[2] = {1, 1};
  int64_t dilations[2] = {1, 1};
  int64_t begin[2] = {0, 0}, end[2] = {0, 0};  // pads
  AutoPad auto_pad = AutoPad::NotSet;
  bool ceil_mode = false;          // pools
  bool count_include_pad = false;  // average pools
};

// Weights without their zeros, by output channel. Column = tap * inputs + channel, taps row by row over the window,
// channel counted over all groups (so a grouped convolution is one whose other blocks are zero).
struct Weights {
  int64_t outputs = 0, inputs = 0, taps = 1, groups = 1;
  std::vector<int64_t> row_begin;  // outputs + 1
  std::vector<int32_t> columns;    // ascending within a row
  std::vector<float> values;       // F32: one for each column
  std::vector<int8_t> quantized;   // Q8: one for each column; zero points of weights are zero
  std::vector<float> scales;       // Q8: one for each output
  std::vector<float> bias;         // one for each output, or empty; real numbers in both

  int64_t nonzeros() const { return static_cast<int64_t>(columns.size()); }
  double density() const;  // nonzeros over the elements that the model's own tensor has
};

struct Layer {
  enum Kind : uint8_t {
    Matrix,  // Conv, Gemm, MatMul: sparse weights (+ bias, + residual, activation); Q8 may become F32
    MaxPool,
    AveragePool,
    GlobalAveragePool,  // to [N, C, 1, 1]
    Reshape,            // tokens to tokens, channels kept: the same bytes under another shape
    // Those below work on real numbers: each input and the output is F32 or Q8, whatever the others are.
    Sum,        // inputs[0] + inputs[1], same shape, then the activation
    Activate,   // activation alone, or none: a copy, QuantizeLinear, DequantizeLinear
    LayerNorm,  // over channels; tokens only; scale, bias, epsilon
  } kind = Matrix;
  std::vector<int> inputs;  // values; Matrix: {x} or {x, residual}; the residual is added before the activation
  int output = -1;          // value
  Window window;            // Matrix over images, pools
  Weights weights;          // Matrix
  // Matrix of Q8 whose product is quantized on the way: what this form leaves of it goes on to bias, residual and
  // activation. The bias of the weights comes before, the one below behind it.
  std::optional<Quantization> rounding;
  Activation activation;
  std::vector<float> scale, bias;  // LayerNorm; Matrix with rounding: bias alone, one for each output, or empty
  float epsilon = 1e-5f;           // LayerNorm
  std::vector<int64_t> shape;      // Reshape: with at most one -1
};

// Layers stand in an order in which they can run. Inputs and outputs are values; an output may feed layers too.
struct Region {
  std::vector<Value> values;
  std::vector<Layer> layers;
  std::vector<int> inputs, outputs;
};

}  // namespace sparse
