// Weights and bias of layers against what the operators compute, element by element.
#include <cmath>

#include "check.h"
#include "graph/compress.h"
#include "graph_builder.h"

namespace {

using namespace sparse;
using B = GraphBuilder;

// A small generator of numbers, a good part of them zero.
struct Numbers {
  uint32_t state = 1;
  uint32_t next() { return state = state * 1664525u + 1013904223u; }
  float real() {
    return next() >> 30 != 0 ? (next() >> 31 != 0 ? 0.0f : -0.0f) : static_cast<float>(next() >> 24) - 99.5f;
  }
  std::vector<float> reals(int64_t count) {
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(real());
    return values;
  }
};

// The weight of a row at (tap, channel over all groups); 0 where none is stored. Counts that columns ascend.
float weight(const Weights& weights, int64_t output, int64_t tap, int64_t channel) {
  float found = 0.0f;
  int32_t before = -1;
  for (int64_t at = weights.row_begin[static_cast<size_t>(output)];
       at < weights.row_begin[static_cast<size_t>(output) + 1]; ++at) {
    const size_t i = static_cast<size_t>(at);
    CHECK(weights.columns[i] > before);
    before = weights.columns[i];
    if (before != tap * weights.inputs + channel) continue;
    found = weights.values.empty() ? static_cast<float>(weights.quantized[i]) : weights.values[i];
  }
  return found;
}

Region only_region(B& b, double threshold = 0.0) {
  ClaimOptions options;
  options.threshold = threshold;
  std::vector<Claim> claims = claim(b.finish(), options);
  CHECK(claims.size() == 1);
  return claims.empty() ? Region() : std::move(claims.front().region);
}

void check_conv(int64_t outputs, int64_t channels, int64_t height, int64_t width, int64_t groups) {
  Numbers numbers;
  const std::vector<float> dense = numbers.reals(outputs * channels * height * width);
  B b;
  const int x = b.input("x", {1, channels * groups, 9, 9});
  b.op("Conv", {x, b.floats({outputs, channels, height, width}, dense)}, {{"group", ints({groups})}});
  const Region region = only_region(b);
  const Weights& weights = region.layers.at(0).weights;
  CHECK(weights.outputs == outputs && weights.inputs == channels * groups && weights.taps == height * width);
  CHECK(weights.groups == groups && weights.bias.empty());
  int64_t nonzeros = 0;
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t c = 0; c < channels * groups; ++c) {
      for (int64_t t = 0; t < height * width; ++t) {
        const int64_t group = o / (outputs / groups), inner = c - group * channels;
        const bool own = inner >= 0 && inner < channels;
        const float expected = own ? dense[static_cast<size_t>((o * channels + inner) * height * width + t)] : 0.0f;
        nonzeros += expected != 0.0f;
        CHECK(weight(weights, o, t, c) == expected);
      }
    }
  }
  CHECK(weights.nonzeros() == nonzeros);
  CHECK_NEAR(weights.density(), static_cast<double>(nonzeros) / static_cast<double>(dense.size()), 1e-12);
}

void check_gemm(bool transposed, float alpha, float beta) {
  const int64_t inputs = 13, outputs = 7;
  Numbers numbers;
  const std::vector<float> dense = numbers.reals(inputs * outputs), bias = numbers.reals(outputs);
  B b;
  const int w = b.floats(transposed ? Shape{outputs, inputs} : Shape{inputs, outputs}, dense);
  b.op("Gemm", {b.input("x", {3, inputs}), w, b.floats({outputs}, bias)},
       {{"transB", ints({transposed})}, {"alpha", real(alpha)}, {"beta", real(beta)}});
  const Region region = only_region(b);
  const Weights& weights = region.layers.at(0).weights;
  for (int64_t o = 0; o < outputs; ++o) {
    CHECK(weights.bias[static_cast<size_t>(o)] ==
          static_cast<float>(static_cast<double>(beta) * bias[static_cast<size_t>(o)]));
    for (int64_t i = 0; i < inputs; ++i) {
      const double value = dense[static_cast<size_t>(transposed ? o * inputs + i : i * outputs + o)];
      CHECK(weight(weights, o, 0, i) == static_cast<float>(alpha * value));
    }
  }
}

void check_bias_chain() {
  B b;
  int y = b.op("Conv", {b.input("x", {1, 2, 5, 5}), b.floats({2, 2, 1, 1}, {3, 0, 0, 5}), b.floats({2}, {1, 2})});
  y = b.op("Add", {y, b.floats({2, 1, 1}, {10, 20})});
  y = b.op("BatchNormalization",
           {y, b.floats({2}, {2, 3}), b.floats({2}, {7, 8}), b.floats({2}, {1, 2}), b.floats({2}, {4, 9})},
           {{"epsilon", real(0)}});
  b.op("Add", {b.scalar(100), y});
  const Region region = only_region(b);
  const Weights& weights = region.layers.at(0).weights;
  CHECK((weights.values == std::vector<float>{3, 5}));
  CHECK((weights.bias == std::vector<float>{117, 128}));
  CHECK(region.layers.size() == 1);
}

void check_threshold() {
  const float zeros[] = {0.0f, -0.0f, 0.0f, 1.0f};
  const DenseWeights dense{1, 4, 1, 1, 4, 1};
  CHECK(compress(dense, zeros, 0.75).has_value());
  CHECK(!compress(dense, zeros, 0.76).has_value());
  const float denormal[] = {0.0f, 0.0f, 0.0f, 1e-42f};
  CHECK(compress(dense, denormal, 0.0)->nonzeros() == 1);
  const int8_t bytes[] = {0, 0, -128, 0};
  CHECK(compress(dense, bytes, 0.75)->quantized == std::vector<int8_t>{-128});
  CHECK(!compress(dense, bytes, 0.8).has_value());
  const float one = 1.0f;  // no columns beyond 31 bits; nothing is read before that is known
  CHECK(!compress(DenseWeights{1, int64_t{1} << 16, int64_t{1} << 16, 1, 0, 0}, &one, 0.0).has_value());
}

void check_quantized() {
  B b;
  const int x =
      b.op("DequantizeLinear", {b.input("x", {1, 2, 5, 5}, DataType::Int8), b.scalar(0.5f), b.bytes({}, {-3})});
  const int w = b.op("DequantizeLinear", {b.bytes({3, 2, 1, 1}, {0, 7, -8, 0, 0, 9}), b.floats({3}, {1, 2, 3})},
                     {{"axis", ints({0})}});
  const int bias = b.op("DequantizeLinear", {b.integers({3}, {10, -20, 30}), b.floats({3}, {0.5f, 1, 1.5f})});
  const int y = b.op("Add", {b.op("Conv", {x, w, bias}), b.scalar(1)});
  b.op("QuantizeLinear", {y, b.scalar(0.25f), b.bytes({}, {4})}, {}, DataType::Int8);
  const Region region = only_region(b);
  const Weights& weights = region.layers.at(0).weights;
  CHECK(weights.values.empty());
  CHECK((weights.quantized == std::vector<int8_t>{7, -8, 9}));
  CHECK((weights.columns == std::vector<int32_t>{1, 0, 1}));
  CHECK((weights.scales == std::vector<float>{1, 2, 3}));
  CHECK((weights.bias == std::vector<float>{6, -19, 46}));
  const Value &from = region.values.at(0), &to = region.values.at(1);
  CHECK(from.name == "x" && from.element == Element::Q8 && from.quantization.is_signed);
  CHECK(from.quantization.zero_point == 125 && from.quantization.scale == 0.5f);
  CHECK(to.quantization.zero_point == 132 && to.quantization.scale == 0.25f && to.channels == 3);
}

void check_qlinear_bias() {
  B b;
  b.op("QLinearConv",
       {b.input("x", {1, 2, 5, 5}, DataType::Uint8), b.scalar(0.5f), b.unsigned_bytes({}, {3}),
        b.unsigned_bytes({2, 2, 1, 1}, {128, 0, 255, 128}), b.floats({2}, {1, 2}), b.unsigned_bytes({}, {128}),
        b.scalar(1), b.unsigned_bytes({}, {9}), b.integers({2}, {3, -4})},
       {}, DataType::Uint8);
  const Region region = only_region(b, 0.5);
  const Weights& weights = region.layers.at(0).weights;
  CHECK((weights.quantized == std::vector<int8_t>{-128, 127}));
  CHECK((weights.bias == std::vector<float>{1.5f, -4}));
  CHECK(region.values.at(0).quantization.zero_point == 3 && region.values.at(1).quantization.zero_point == 9);
}

void check_windows() {
  B b;
  const int x = b.input("x", {1, 2, 9});
  b.op("Conv", {x, b.weights({2, 2, 3})}, {{"strides", ints({2})}, {"dilations", ints({3})}, {"pads", ints({4, 5})}});
  const Window line = only_region(b).layers.at(0).window;
  CHECK(line.kernel[0] == 1 && line.kernel[1] == 3 && line.strides[0] == 1 && line.strides[1] == 2);
  CHECK(line.dilations[0] == 1 && line.dilations[1] == 3);
  CHECK(line.begin[0] == 0 && line.begin[1] == 4 && line.end[0] == 0 && line.end[1] == 5);

  B image;
  const int y = image.op("Conv", {image.input("x", {1, 2, 9, 9}), image.weights({2, 2, 3, 5})},
                         {{"pads", ints({1, 2, 3, 4})}, {"strides", ints({5, 6})}});
  const int pooled = image.op("AveragePool", {y},
                              {{"kernel_shape", ints({2, 3})},
                               {"count_include_pad", ints({1})},
                               {"pads", ints({1, 1, 1, 1})},
                               {"auto_pad", text("SAME_LOWER")}});
  image.op("MaxPool", {pooled}, {{"kernel_shape", ints({2, 2})}, {"ceil_mode", ints({1})}});
  const Region region = only_region(image);
  const Window conv = region.layers.at(0).window, pool = region.layers.at(1).window;
  CHECK(conv.kernel[0] == 3 && conv.kernel[1] == 5 && conv.strides[0] == 5 && conv.strides[1] == 6);
  CHECK(conv.begin[0] == 1 && conv.begin[1] == 2 && conv.end[0] == 3 && conv.end[1] == 4 && !conv.ceil_mode);
  CHECK(pool.kernel[0] == 2 && pool.kernel[1] == 3 && !pool.ceil_mode && pool.count_include_pad);
  CHECK(region.layers.at(2).window.ceil_mode && !region.layers.at(2).window.count_include_pad);
  CHECK(pool.auto_pad == AutoPad::SameLower && pool.begin[0] == 0 && pool.end[1] == 0);
}

// Bytes quantized once more have the limits of everything on the way.
void check_limits() {
  const auto limits = [](float scale, uint8_t zero, float low, float high, float last_scale, uint8_t last_zero) {
    B b;
    const int x = b.dequantize(b.input("x", {1, 8, 7, 7}, DataType::Uint8));
    const int y = b.quantize(b.op("Conv", {x, b.dequantized_weights({8, 8, 1, 1})}), scale, zero);
    const int clip = b.op("Clip", {b.dequantize(y, scale, zero), b.scalar(low), b.scalar(high)});
    b.quantize(clip, last_scale, last_zero);
    const Region region = only_region(b);
    CHECK(region.layers.size() == 1 && region.values.at(1).quantization.scale == last_scale);
    CHECK(region.values.at(1).quantization.zero_point == last_zero);
    return region.layers.at(0).activation;
  };
  const auto is_clip = [](const Activation& found, float low, float high) {
    return found.kind == Activation::Clip && found.alpha == low && found.beta == high;
  };
  CHECK(is_clip(limits(0.25f, 8, -1, 50, 0.5f, 128), -1, 50));         // what the Clip has
  CHECK(is_clip(limits(0.25f, 8, -100, 100, 0.5f, 128), -2, 61.75f));  // what the first bytes hold
  CHECK(is_clip(limits(0.25f, 8, -1, 100, 0.5f, 128), -1, 61.75f));
  CHECK(is_clip(limits(0.25f, 8, -100, 50, 0.5f, 128), -2, 50));
  CHECK(is_clip(limits(0.25f, 8, 70, 80, 0.5f, 0), 70, 70));
  CHECK(is_clip(limits(0.25f, 8, -1, 100, 0.125f, 128), -1, 61.75f));
  CHECK(limits(0.25f, 8, -100, 100, 0.125f, 16).kind == Activation::None);  // the last ones hold no more
  CHECK(limits(0.25f, 8, 0, 100, 0.125f, 16).kind == Activation::Relu);
}

void check_numbers() {
  B b;
  int y = b.conv(b.input("x", {1, 4, 9, 9}), 4, 4);
  y = b.conv(b.op("Clip", {y}, {{"min", real(-2)}, {"max", real(6)}}, DataType::Float, 10), 4, 4);
  y = b.conv(b.op("Clip", {y, b.scalar(-3), b.scalar(7)}), 4, 4);
  y = b.conv(b.op("LeakyRelu", {y}, {{"alpha", real(0.3f)}}), 4, 4);
  b.op("HardSigmoid", {y}, {{"alpha", real(0.4f)}, {"beta", real(0.6f)}});
  const Region region = only_region(b);
  const float expected[][2] = {{-2, 6}, {-3, 7}, {0.3f, 0}, {0.4f, 0.6f}};
  CHECK(region.layers.size() == 4);
  for (size_t i = 0; i < region.layers.size(); ++i) {
    CHECK(region.layers[i].activation.alpha == expected[i][0] && region.layers[i].activation.beta == expected[i][1]);
  }

  B tokens;
  const int z = tokens.matmul(tokens.input("x", {1, 5, 3}), 3, 2);
  tokens.op("LayerNormalization", {z, tokens.floats({2}, {2, 3}), tokens.floats({2}, {4, 5})},
            {{"epsilon", real(0.5f)}});
  const Region normalized = only_region(tokens);
  const Layer& norm = normalized.layers.at(1);
  CHECK(norm.epsilon == 0.5f && norm.scale == std::vector<float>({2, 3}) && norm.bias == std::vector<float>({4, 5}));

  B bytes;
  const int x = bytes.dequantize(bytes.input("x", {5, 8}, DataType::Uint8));
  bytes.quantize(bytes.op("Gemm", {x, bytes.dequantized_weights({8, 2}, 1)}, {{"alpha", real(3)}}));
  CHECK((only_region(bytes).layers.at(0).weights.scales == std::vector<float>{0.375f, 0.75f}));
}

}  // namespace

int main() {
  check_conv(6, 5, 3, 2, 1);
  check_conv(6, 2, 3, 3, 3);
  check_conv(4, 1, 1, 1, 4);
  check_conv(5, 1, 3, 3, 5);
  for (const bool transposed : {false, true}) {
    check_gemm(transposed, 1.0f, 1.0f);
    check_gemm(transposed, -0.3f, 0.7f);
  }
  check_bias_chain();
  check_threshold();
  check_quantized();
  check_qlinear_bias();
  check_windows();
  check_limits();
  check_numbers();
  return failures != 0;
}
