// What is left alone, each beside the same graph without the flaw, which is claimed.
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>

#include "check.h"
#include "graph_builder.h"

namespace {

using namespace sparse;
using B = GraphBuilder;

struct Case {
  const char* flaw;
  const char* without;  // what the graph becomes without the flaw
  const char* with;     // and with it
  std::function<void(B&, bool)> build;
};

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

int image(B& b) { return b.input("x", {1, 8, 14, 14}); }
int tokens(B& b) { return b.input("x", {1, 5, 8}); }

Case conv_attribute(const char* flaw, const char* name, Attribute good, Attribute bad) {
  return {flaw, "Matrix", "",
          [=](B& b, bool flawed) { b.op("Conv", {image(b), b.weights({8, 8, 3, 3})}, {{name, flawed ? bad : good}}); }};
}

// Behind a convolution; with the flaw only the convolution is claimed, or what `with` says.
Case behind(const char* flaw, const char* without, const char* with, std::function<void(B&, int, bool)> build) {
  return {flaw, without, with, [=](B& b, bool flawed) { build(b, b.conv(image(b), 8, 8), flawed); }};
}

// A product of tokens [6, 8], whose reshaped output is followed by a Relu; with the flaw both are left alone.
Case reshaped(const char* flaw, std::function<int(B&, int, bool)> reshape) {
  return {flaw, "Reshape; Matrix Relu", "Matrix",
          [=](B& b, bool flawed) { b.op("Relu", {reshape(b, b.matmul(b.input("x", {6, 8}), 8, 4), flawed)}); }};
}

// A convolution of bytes whose weights `make` dequantizes from a constant of 8 outputs.
Case weights_of_bytes(const char* flaw, std::function<int(B&, int, bool)> make) {
  return {flaw, "Matrix8", "", [=](B& b, bool flawed) {
            const int x = b.dequantize(b.input("x", {1, 8, 7, 7}, DataType::Uint8));
            b.quantize(b.op("Conv", {x, make(b, b.byte_weights({8, 8, 1, 1}), flawed)}));
          }};
}

// A convolution of bytes with a bias of integers; with the flaw, of another shape or zero point.
Case bias_of_bytes(const char* flaw, int64_t outputs, Shape good, Shape bad, int32_t zero) {
  return {flaw, "Matrix8 +bias", "", [=](B& b, bool flawed) {
            const int x = b.dequantize(b.input("x", {1, 8, 7, 7}, DataType::Uint8));
            const int w = b.dequantized_weights({outputs, 8, 1, 1});
            const Shape shape = flawed ? bad : good;
            const int bias =
                b.op("DequantizeLinear", {b.integers(shape, std::vector<int32_t>(static_cast<size_t>(shape.back()), 7)),
                                          b.scalar(1), b.integers({}, {flawed ? zero : 0})});
            b.quantize(b.op("Conv", {x, w, bias}));
          }};
}

int quantized_conv(B& b, int x) { return b.op("Conv", {x, b.dequantized_weights({8, 8, 1, 1})}); }

// Behind a convolution of bytes.
Case behind_bytes(const char* flaw, const char* without, const char* with, std::function<void(B&, int, bool)> build) {
  return {flaw, without, with, [=](B& b, bool flawed) {
            const int x = b.dequantize(b.input("x", {1, 8, 7, 7}, DataType::Uint8));
            build(b, b.quantize(b.op("Conv", {x, b.dequantized_weights({8, 8, 1, 1})})), flawed);
          }};
}

void qlinear(B& b, int weights, int weight_zero, float scale, int bias, int64_t outputs) {
  std::vector<int> inputs = {b.input("x", {1, 8, 7, 7}, DataType::Uint8),
                             b.scalar(scale),
                             b.unsigned_bytes({}, {3}),
                             weights,
                             b.filled({outputs}, 0.5f),
                             weight_zero,
                             b.scalar(0.5f),
                             b.unsigned_bytes({}, {3})};
  if (bias >= 0) inputs.push_back(bias);
  b.op("QLinearConv", inputs, {}, DataType::Uint8);
}

std::vector<Case> cases() {
  const Attributes pool = {{"kernel_shape", ints({2, 2})}};
  return {
      {"weights with too few zeros", "Matrix", "",
       [](B& b, bool flawed) {
         b.op("Conv", {image(b), b.floats({1, 8, 1, 1}, {0, -0.0f, 0, 1, 1, 1, 1, flawed ? 1.0f : 0.0f})});
       }},
      {"weights that are not finite", "Matrix", "",
       [](B& b, bool flawed) {
         b.op("MatMul", {tokens(b), b.floats({8, 1}, {0, 0, 0, 0, 0, 0, flawed ? kNaN : 1, 0})});
       }},
      {"infinite weights of Conv", "Matrix", "",
       [](B& b, bool flawed) {
         b.op("Conv", {image(b), b.floats({1, 8, 1, 1}, {0, 0, 0, 0, 0, 0, flawed ? kInfinity : 1, 0})});
       }},
      {"weights that are no constant", "Matrix", "",
       [](B& b, bool flawed) {
         b.op("Conv", {image(b), flawed ? b.input("w", {8, 8, 1, 1}) : b.weights({8, 8, 1, 1})});
       }},
      {"weights of another type", "Matrix", "",
       [](B& b, bool flawed) {
         const int w = b.weights({8, 8, 1, 1});
         if (flawed) b.at(w).type = DataType::Float16;
         b.op("Conv", {image(b), w});
       }},
      {"an input without a shape", "Matrix", "",
       [](B& b, bool flawed) {
         const int x = image(b);
         if (flawed) b.at(x).has_shape = false;
         b.conv(x, 8, 8);
       }},
      {"an input of another type", "Matrix", "",
       [](B& b, bool flawed) {
         b.conv(b.input("x", {1, 8, 7, 7}, flawed ? DataType::Undefined : DataType::Float), 8, 8);
       }},
      {"a constant input", "Matrix", "",
       [](B& b, bool flawed) { b.conv(flawed ? b.filled({1, 8, 7, 7}, 1) : image(b), 8, 8); }},
      {"channels that do not fit the weights", "Matrix", "",
       [](B& b, bool flawed) { b.conv(b.input("x", {1, flawed ? 7 : 8, 7, 7}), 8, 8); }},
      {"a stated output that does not fit the weights", "Matrix", "",
       [](B& b, bool flawed) {
         const int y = b.conv(image(b), 8, 8);
         b.at(y).has_shape = true;
         b.at(y).shape = {1, flawed ? 9 : 8, 14, 14};
       }},
      {"an image of another rank", "Matrix", "",
       [](B& b, bool flawed) { b.conv(b.input("x", flawed ? Shape{1, 8, 7} : Shape{1, 8, 7, 7}), 8, 8); }},
      {"three dimensions", "Matrix", "",
       [](B& b, bool flawed) {
         const int x = b.input("x", flawed ? Shape{1, 8, 7, 7, 7} : Shape{1, 8, 7, 7});
         b.op("Conv", {x, b.weights(flawed ? Shape{8, 8, 1, 1, 1} : Shape{8, 8, 1, 1})});
       }},
      {"another domain", "Matrix", "",
       [](B& b, bool flawed) {
         b.conv(image(b), 8, 8);
         if (flawed) b.last().domain = "elsewhere";
       }},
      {"a subgraph", "Matrix", "",
       [](B& b, bool flawed) {
         b.conv(image(b), 8, 8);
         b.last().subgraphs = flawed;
       }},
      conv_attribute("a kernel that the weights do not have", "kernel_shape", ints({3, 3}), ints({3, 2})),
      conv_attribute("strides for another rank", "strides", ints({2, 2}), ints({2})),
      conv_attribute("a stride of nothing", "strides", ints({2, 2}), ints({0, 2})),
      conv_attribute("padding below zero", "pads", ints({1, 1, 1, 1}), ints({1, 1, -1, 1})),
      conv_attribute("padding beyond reason", "pads", ints({1, 1, 1, 1}), ints({1, 1, 1, int64_t{1} << 62})),
      conv_attribute("a dilation beyond reason", "dilations", ints({2, 2}), ints({1, int64_t{1} << 40})),
      conv_attribute("unknown padding", "auto_pad", text("SAME_UPPER"), text("SAME")),
      conv_attribute("no groups", "group", ints({1}), ints({0})),
      {"outputs that groups do not share", "Matrix", "",
       [](B& b, bool flawed) {
         b.op("Conv", {image(b), b.weights({flawed ? 9 : 8, 2, 1, 1})}, {{"group", ints({4})}});
       }},
      {"a bias that is no constant", "Matrix +bias", "",
       [](B& b, bool flawed) {
         b.op("Conv", {image(b), b.weights({8, 8, 1, 1}), flawed ? b.input("b", {8}) : b.filled({8}, 1)});
       }},
      {"a bias of another size", "Matrix +bias", "",
       [](B& b, bool flawed) { b.op("Conv", {image(b), b.weights({8, 8, 1, 1}), b.filled({flawed ? 7 : 8}, 1)}); }},
      {"a Gemm transposed at the left", "Matrix", "",
       [](B& b, bool flawed) {
         b.op("Gemm", {b.input("x", {8, 8}), b.weights({8, 8})}, {{"transA", ints({flawed ? 1 : 0})}});
       }},
      {"a bias of Gemm for each row", "Matrix +bias", "",
       [](B& b, bool flawed) {
         b.op("Gemm", {b.input("x", {4, 8}), b.weights({8, 4}), b.filled(flawed ? Shape{4, 1} : Shape{1, 4}, 1)});
       }},
      {"a Gemm that adds a value for all rows", "Matrix +residual", "",
       [](B& b, bool flawed) {
         b.op("Gemm", {b.input("x", {4, 8}), b.weights({8, 4}), b.input("r", {flawed ? 1 : 4, 4})});
       }},
      {"a Gemm that adds a multiple of a value", "Matrix +residual", "",
       [](B& b, bool flawed) {
         b.op("Gemm", {b.input("x", {4, 8}), b.weights({8, 4}), b.input("r", {4, 4})},
              {{"beta", real(flawed ? 2.0f : 1)}});
       }},
      {"a Gemm of bytes that adds a value times a factor", "Matrix8 +residual", "",
       [](B& b, bool flawed) {
         const int x = b.dequantize(b.input("x", {5, 8}, DataType::Uint8));
         b.quantize(b.op("Gemm", {x, b.dequantized_weights({8, 8}, 1), b.input("r", {5, 8})},
                         {{"beta", real(flawed ? 2.0f : 1)}}));
       }},
      {"a window at the border that is rounded up and counts padding", "Matrix; AveragePool", "Matrix",
       [](B& b, bool flawed) {
         b.op("AveragePool", {b.conv(image(b), 8, 8)},
              {{"kernel_shape", ints({2, 2})}, {"ceil_mode", ints({1})}, {"count_include_pad", ints({flawed})}});
       }},
      {"a factor that makes weights infinite", "Matrix", "",
       [](B& b, bool flawed) {
         b.op("Gemm", {b.input("x", {4, 8}), b.weights({8, 4})}, {{"alpha", real(flawed ? 3e38f : 1)}});
       }},
      {"a MatMul of a vector", "Matrix", "",
       [](B& b, bool flawed) { b.matmul(b.input("x", flawed ? Shape{8} : Shape{1, 8}), 8, 4); }},
      {"a MatMul with a constant at the left", "Matrix", "",
       [](B& b, bool flawed) {
         const int w = b.weights({8, 8}), x = b.input("x", {8, 8});
         b.op("MatMul", flawed ? std::vector<int>{w, x} : std::vector<int>{x, w});
       }},
      {"weights of three dimensions", "Matrix", "",
       [](B& b, bool flawed) { b.op("MatMul", {tokens(b), b.weights(flawed ? Shape{1, 8, 4} : Shape{8, 4})}); }},

      behind("a product that is an output", "Matrix Relu", "Matrix",
             [](B& b, int y, bool flawed) {
               if (flawed) b.output(y);
               b.op("Relu", {y});
             }),
      behind("a product with another reader", "Matrix Relu", "Matrix",
             [](B& b, int y, bool flawed) {
               b.op("Relu", {y});
               if (flawed) b.op("Softmax", {y});
             }),
      behind("a bias along another axis", "Matrix +bias", "Matrix",
             [](B& b, int y, bool flawed) {
               b.op("Add", {y, b.filled(flawed ? Shape{1, 1, 14, 1} : Shape{1, 8, 1, 1}, 1)});
             }),
      behind("a bias of the last axis behind Conv", "Matrix +bias", "Matrix",
             [](B& b, int y, bool flawed) { b.op("Add", {y, b.filled(flawed ? Shape{14} : Shape{1}, 1)}); }),
      behind("a bias that broadcasts up", "Matrix +bias", "Matrix",
             [](B& b, int y, bool flawed) {
               b.op("Add", {y, b.filled(flawed ? Shape{1, 1, 8, 1, 1} : Shape{1, 8, 1, 1}, 1)});
             }),
      behind("a normalisation that trains", "Matrix +bias", "Matrix",
             [](B& b, int y, bool flawed) {
               b.op("BatchNormalization", {y, b.filled({8}, 1), b.filled({8}, 1), b.filled({8}, 1), b.filled({8}, 1)},
                    {{"training_mode", ints({flawed})}});
             }),
      behind("a normalisation by a variance below zero", "Matrix +bias", "Matrix",
             [](B& b, int y, bool flawed) {
               b.op("BatchNormalization",
                    {y, b.filled({8}, 1), b.filled({8}, 1), b.filled({8}, 1), b.filled({8}, flawed ? -1 : 1)});
             }),
      behind("a normalisation whose statistics are read", "Matrix +bias", "Matrix",
             [](B& b, int y, bool flawed) {
               b.op("BatchNormalization", {y, b.filled({8}, 1), b.filled({8}, 1), b.filled({8}, 1), b.filled({8}, 1)});
               if (!flawed) return;
               b.last().outputs.push_back(b.tensor("mean", DataType::Float));
               b.output(b.last().outputs.back());
             }),
      behind("a normalisation of old", "Matrix +bias", "Matrix",
             [](B& b, int y, bool flawed) {
               b.op("BatchNormalization", {y, b.filled({8}, 1), b.filled({8}, 1), b.filled({8}, 1), b.filled({8}, 1)},
                    {}, DataType::Float, flawed ? 7 : 9);
             }),
      {"a normalisation of bytes", "Matrix8", "Matrixf",
       [](B& b, bool flawed) {
         const int x = b.dequantize(b.input("x", {1, 8, 7, 7}, DataType::Uint8));
         const int y = b.op("Conv", {x, b.dequantized_weights({8, 8, 1, 1})});
         const int one = b.filled({8}, 1);
         b.quantize(flawed ? b.op("BatchNormalization", {y, one, one, one, one}) : b.op("Identity", {y}));
       }},
      {"a bridge over channels that are not known", "Matrix; Activate Relu; Matrix", "Matrix | Matrix",
       [](B& b, bool flawed) {
         const int x = b.input("x", {1, flawed ? -1 : 8, 7, 7});
         b.conv(x, 8, 8);
         b.conv(b.op("Relu", {x}), 8, 8);
       }},
      behind("a residual that broadcasts", "Matrix +residual", "Matrix",
             [](B& b, int y, bool flawed) { b.op("Add", {y, b.input("r", {1, 8, 14, flawed ? 1 : 14})}); }),
      behind("a residual of sizes that may differ", "Matrix +residual", "Matrix",
             [](B& b, int y, bool flawed) { b.op("Add", {y, b.input("r", {flawed ? -1 : 1, 8, 14, 14})}); }),
      {"a residual of another symbol", "Matrix +residual", "Matrix",
       [](B& b, bool flawed) {
         const int x = b.input("x", {-1, 8}, DataType::Float, {"n", ""});
         b.op("Add", {b.matmul(x, 8, 8), b.input("r", {-1, 8}, DataType::Float, {flawed ? "m" : "n", ""})});
       }},
      {"a residual of another stride", "Matrix; Matrix +residual", "Matrix; Matrix",
       [](B& b, bool flawed) {
         const int x = b.input("x", {1, 8, -1, -1});
         b.op("Add", {b.conv(x, 8, 8, 3, {{"strides", ints({2, 2})}}),
                      b.conv(x, 8, 8, 1, {{"strides", ints({2, flawed ? 3 : 2})}})});
       }},
      behind("a value added to itself", "Matrix +residual", "Matrix; Sum",
             [](B& b, int y, bool flawed) { b.op("Add", {y, flawed ? y : b.input("r", {1, 8, 14, 14})}); }),
      behind("bounds that are no constants", "Matrix Clip", "Matrix",
             [](B& b, int y, bool flawed) { b.op("Clip", {y, flawed ? b.input("low", {}) : b.scalar(0)}); }),
      behind("bounds in the wrong order", "Matrix Clip", "Matrix",
             [](B& b, int y, bool flawed) { b.op("Clip", {y, b.scalar(flawed ? 7.0f : 0), b.scalar(6)}); }),
      behind("a bound that is no number", "Matrix Clip", "Matrix",
             [](B& b, int y, bool flawed) { b.op("Clip", {y, b.scalar(flawed ? kNaN : 0)}); }),
      behind("FastGelu with a bias", "Matrix GeluTanh", "Matrix",
             [](B& b, int y, bool flawed) {
               b.op("com.microsoft:FastGelu", flawed ? std::vector<int>{y, b.filled({14}, 1)} : std::vector<int>{y});
             }),
      behind("an unknown Gelu", "Matrix Gelu", "Matrix",
             [](B& b, int y, bool flawed) { b.op("Gelu", {y}, {{"approximate", text(flawed ? "erf" : "none")}}); }),
      behind("a slope that is not that of HardSwish", "Matrix HardSwish", "Matrix",
             [](B& b, int y, bool flawed) {
               b.op("Mul", {y, b.op("HardSigmoid", {y}, {{"alpha", real(flawed ? 0.2f : 1.0f / 6)}})});
             }),
      behind("a HardSwish that is not cut at 6", "Matrix HardSwish", "Matrix",
             [](B& b, int y, bool flawed) {
               const int clip = b.op("Clip", {b.op("Add", {y, b.scalar(3)}), b.scalar(0), b.scalar(flawed ? 5 : 6)});
               b.op("Mul", {y, b.op("Div", {clip, b.scalar(6)})});
             }),
      behind("a HardSwish times another value", "Matrix HardSwish", "Matrix +bias Clip",
             [](B& b, int y, bool flawed) {
               const int clip = b.op("Clip", {b.op("Add", {y, b.scalar(3)}), b.scalar(0), b.scalar(6)});
               b.op("Mul", {flawed ? b.input("z", {1, 8, 14, 14}) : y, b.op("Div", {clip, b.scalar(6)})});
             }),
      behind("a Gelu with another factor", "Matrix Gelu", "Matrix",
             [](B& b, int y, bool flawed) {
               const int erf = b.op("Erf", {b.op("Div", {y, b.scalar(flawed ? 1.5f : 1.41421356f)})});
               b.op("Mul", {b.op("Mul", {y, b.op("Add", {erf, b.scalar(1)})}), b.scalar(0.5f)});
             }),
      behind("a Gelu without its half", "Matrix Gelu", "Matrix",
             [](B& b, int y, bool flawed) {
               const int erf = b.op("Erf", {b.op("Div", {y, b.scalar(1.41421356f)})});
               b.op("Mul", {b.op("Mul", {y, b.op("Add", {erf, b.scalar(1)})}), b.scalar(flawed ? 0.6f : 0.5f)});
             }),
      behind("a Gelu whose inside is read elsewhere", "Matrix Gelu", "Matrix",
             [](B& b, int y, bool flawed) {
               const int erf = b.op("Erf", {b.op("Div", {y, b.scalar(1.41421356f)})});
               if (flawed) b.output(erf);
               b.op("Mul", {b.op("Mul", {y, b.op("Add", {erf, b.scalar(1)})}), b.scalar(0.5f)});
             }),

      {"a bias of one number for many outputs", "Matrix +bias", "",
       [](B& b, bool flawed) { b.op("Conv", {image(b), b.weights({8, 8, 1, 1}), b.filled({flawed ? 1 : 8}, 1)}); }},
      {"a kernel beyond reason", "Matrix", "",
       [](B& b, bool flawed) {
         const int64_t size = flawed ? (1 << 20) + 1 : 3;
         b.op("Conv", {b.input("x", {1, 1, -1}), b.filled({1, 1, size}, 0)});
       }},
      behind("a bias of another number of channels", "Matrix +bias", "Matrix",
             [](B& b, int y, bool flawed) { b.op("Add", {y, b.filled({flawed ? 7 : 8, 1, 1}, 1)}); }),
      behind("an Identity with a subgraph", "Matrix Relu", "Matrix",
             [](B& b, int y, bool flawed) {
               const int same = b.op("Identity", {y});
               b.last().subgraphs = flawed;
               b.op("Relu", {same});
             }),
      behind("an activation of another type", "Matrix Relu", "Matrix",
             [](B& b, int y, bool flawed) { b.op("Relu", {y}, {}, flawed ? DataType::Undefined : DataType::Float); }),
      behind("an infinite slope", "Matrix LeakyRelu", "Matrix",
             [](B& b, int y, bool flawed) { b.op("LeakyRelu", {y}, {{"alpha", real(flawed ? kInfinity : 1)}}); }),
      behind("an infinite offset", "Matrix HardSigmoid", "Matrix",
             [](B& b, int y, bool flawed) { b.op("HardSigmoid", {y}, {{"beta", real(flawed ? kInfinity : 1)}}); }),
      behind("a HardSwish with another offset", "Matrix HardSwish", "Matrix",
             [](B& b, int y, bool flawed) {
               const Attributes slope = {{"alpha", real(1.0f / 6)}, {"beta", real(flawed ? 0.4f : 0.5f)}};
               b.op("Mul", {y, b.op("HardSigmoid", {y}, slope)});
             }),
      behind("a HardSwish that is not cut at 0", "Matrix HardSwish", "Matrix",
             [](B& b, int y, bool flawed) {
               const int clip = b.op("Clip", {b.op("Add", {y, b.scalar(3)}), b.scalar(flawed ? -1 : 0), b.scalar(6)});
               b.op("Mul", {y, b.op("Div", {clip, b.scalar(6)})});
             }),
      behind("a HardSwish by a constant of more dimensions", "Matrix HardSwish", "Matrix",
             [](B& b, int y, bool flawed) {
               const int clip = b.op("Clip", {b.op("Add", {y, b.scalar(3)}), b.scalar(0), b.scalar(6)});
               b.op("Mul", {y, b.op("Div", {clip, b.filled(flawed ? Shape{1, 1, 1, 1, 1} : Shape{1, 1, 1, 1}, 6)})});
             }),
      behind("a Gelu of a reciprocal", "Matrix Gelu", "Matrix",
             [](B& b, int y, bool flawed) {
               const int root = b.scalar(1.41421356f);
               const int erf =
                   b.op("Erf", {b.op("Div", flawed ? std::vector<int>{root, y} : std::vector<int>{y, root})});
               b.op("Mul", {b.op("Mul", {y, b.op("Add", {erf, b.scalar(1)})}), b.scalar(0.5f)});
             }),
      behind("a Gelu times x once more", "Matrix Gelu", "Matrix",
             [](B& b, int y, bool flawed) {
               const int erf = b.op("Erf", {b.op("Div", {y, b.scalar(1.41421356f)})});
               const int product = b.op("Mul", {y, b.op("Add", {erf, b.scalar(1)})});
               b.op("Mul", {flawed ? b.op("Mul", {product, y}) : product, b.scalar(0.5f)});
             }),
      behind("a Gelu whose half is read elsewhere", "Matrix Gelu", "Matrix",
             [](B& b, int y, bool flawed) {
               const int half = b.op("Mul", {y, b.scalar(0.5f)});
               if (flawed) b.output(half);
               const int erf = b.op("Erf", {b.op("Div", {y, b.scalar(1.41421356f)})});
               b.op("Mul", {half, b.op("Add", {erf, b.scalar(1)})});
             }),
      {"a residual of another padding", "Matrix; Matrix +residual", "Matrix; Matrix",
       [](B& b, bool flawed) {
         const int x = b.input("x", {1, 8, -1, -1});
         const Attributes stride = {{"strides", ints({2, 2})}};
         const int64_t size = flawed ? 3 : 1;
         b.op("Add", {b.conv(x, 8, 8, 1, stride), b.op("Conv", {x, b.weights({8, 8, size, size})}, stride)});
       }},
      {"a residual behind a pool that rounds up", "MaxPool; MaxPool; Matrix +residual", "Matrix",
       [](B& b, bool flawed) {
         const int x = b.input("x", {1, 8, -1, -1});
         const Attributes down = {{"kernel_shape", ints({2, 2})}, {"strides", ints({2, 2})}};
         Attributes up = down;
         up["ceil_mode"] = ints({flawed});
         b.op("Add", {b.conv(b.op("MaxPool", {x}, down), 8, 8), b.op("MaxPool", {x}, up)});
       }},
      {"a residual that may have grown", "Matrix +residual", "Matrix",
       [](B& b, bool flawed) {
         const int x = b.input("x", {-1, 8}), y = b.input("y", {flawed ? -1 : 1, 8});
         b.op("Add", {b.matmul(x, 8, 8), b.op("Mul", {x, y})});
       }},
      {"a residual of statistics", "Matrix +residual", "Matrix",
       [](B& b, bool flawed) {
         const int x = b.input("x", {-1, 5, 8}), product = b.matmul(x, 8, 8);
         int other = b.op("LayerNormalization", {x, b.filled({8}, 1)});
         if (flawed) {
           other = b.tensor("mean", DataType::Float);
           b.last().outputs.push_back(other);
         }
         b.op("Add", {product, b.op("Softmax", {other})});
       }},
      {"a residual of a transposed Gemm", "Matrix +residual", "Matrix",
       [](B& b, bool flawed) {
         const int x = b.input("x", {-1, 8}), w = b.input("w", {8, 8});
         b.op("Add", {b.matmul(x, 8, 8), b.op("Gemm", {x, w}, {{"transA", ints({flawed})}})});
       }},
      reshaped("a Reshape that splits channels",
               [](B& b, int y, bool flawed) { return b.reshape(y, flawed ? Shape{6, 2, 2} : Shape{2, 3, 4}); }),
      reshaped("a Reshape that joins channels",
               [](B& b, int y, bool flawed) { return b.reshape(y, flawed ? Shape{1, 3, 8} : Shape{1, 6, 4}); }),
      reshaped("a Reshape to a vector",
               [](B& b, int y, bool flawed) { return b.reshape(y, flawed ? Shape{24} : Shape{1, -1, 4}); }),
      {"a Reshape of one token to a vector", "Reshape; Matrix Relu", "Matrix",
       [](B& b, bool flawed) {
         b.op("Relu", {b.reshape(b.matmul(b.input("x", {1, 8}), 8, 4), flawed ? Shape{4} : Shape{1, 1, 4})});
       }},
      {"an Unsqueeze of nothing", "Reshape; Matrix Relu", "Matrix",
       [](B& b, bool flawed) {
         const int y = b.matmul(b.input("x", {-1, flawed ? 0 : 2, 8}), 8, 4);
         b.op("Relu", {b.op("Unsqueeze", {y, b.integers64({0})})});
       }},
      {"a Reshape to nothing", "Matrix Relu", "Matrix",
       [](B& b, bool flawed) {
         const int y = b.matmul(b.input("x", {3, flawed ? 0 : 2, 8}), 8, 4);
         const int z = b.reshape(y, {-1, flawed ? 0 : 2, 4});
         b.last().attributes["allowzero"] = ints({1});
         b.op("Relu", {z});
       }},
      {"a residual of an uneven rest", "Reshape; Matrix +residual", "Matrix",
       [](B& b, bool flawed) {
         const int x = b.input("x", {-1, flawed ? 5 : 4, 8}, DataType::Float, {"n", "", ""});
         const int r = b.input("r", {-1, 2, 2, 8}, DataType::Float, {"n", "", "", ""});
         b.op("Add", {b.matmul(b.reshape(x, {-1, 2, 8}), 8, 8), b.reshape(r, {-1, 2, 8})});
       }},
      {"a Squeeze of whatever is 1", "Reshape; Matrix Relu", "Matrix",
       [](B& b, bool flawed) {
         std::vector<int> inputs = {b.matmul(b.input("x", {1, 6, 8}), 8, 4)};
         if (!flawed) inputs.push_back(b.integers64({0}));
         b.op("Relu", {b.op("Squeeze", inputs)});
       }},
      {"a Reshape in front of an image", "Reshape; Matrix", "Matrix",
       [](B& b, bool flawed) {
         const int x = b.reshape(b.input("x", {16, 8}), {2, 8, 8});
         if (flawed) b.op("Conv", {x, b.weights({8, 8, 1})});
         if (!flawed) b.matmul(x, 8, 8);
       }},
      {"a Reshape behind an image", "Reshape; Matrix Relu", "Matrix",
       [](B& b, bool flawed) {
         const int x = b.input("x", {2, 8, 8});
         b.op("Relu", {b.reshape(flawed ? b.op("Conv", {x, b.weights({8, 8, 1})}) : b.matmul(x, 8, 8), {16, 8})});
       }},
      {"a Reshape of bytes to other channels", "Matrix8; Reshape8; Matrix8", "Matrix8 | Matrix8",
       [](B& b, bool flawed) {
         const int y = b.quantize(
             b.op("MatMul", {b.dequantize(b.input("x", {6, 8}, DataType::Uint8)), b.dequantized_weights({8, 8}, 1)}));
         const int64_t channels = flawed ? 4 : 8;
         const int z = b.op("Reshape", {y, b.integers64({-1, 3, channels})}, {}, DataType::Uint8);
         b.quantize(b.op("MatMul", {b.dequantize(z, 0.25f, 5), b.dequantized_weights({channels, 8}, 1)}));
       }},
      {"a Reshape of bytes that quantizes anew", "Matrix8; Reshape8; Matrix8",
       "Matrix8; Activatef; Reshape; Activate8; Matrix8",
       [](B& b, bool flawed) {
         const int y = b.quantize(
             b.op("MatMul", {b.dequantize(b.input("x", {6, 8}, DataType::Uint8)), b.dequantized_weights({8, 8}, 1)}));
         const float scale = flawed ? 0.5f : 0.25f;
         const int z = b.quantize(b.reshape(b.dequantize(y, 0.25f, 5), {2, 3, 8}), scale, 5);
         b.quantize(b.op("MatMul", {b.dequantize(z, scale, 5), b.dequantized_weights({8, 8}, 1)}));
       }},
      reshaped("a Reshape with two sizes left open",
               [](B& b, int y, bool flawed) { return b.reshape(y, {-1, 3, flawed ? -1 : 4}); }),
      reshaped("a Reshape to another number of elements",
               [](B& b, int y, bool flawed) { return b.reshape(y, {flawed ? 3 : 2, 3, 4}); }),
      reshaped("a Reshape to a size below -1",
               [](B& b, int y, bool flawed) { return b.reshape(y, {flawed ? -2 : -1, 3, 4}); }),
      reshaped("a Reshape that copies a size that is not there",
               [](B& b, int y, bool flawed) { return b.reshape(y, flawed ? Shape{2, 3, 0} : Shape{0, 1, 4}); }),
      reshaped("a Reshape that leaves an uneven rest",
               [](B& b, int y, bool flawed) { return b.reshape(y, {-1, flawed ? 5 : 3, 4}); }),
      reshaped("a Reshape that takes zero for a size",
               [](B& b, int y, bool flawed) {
                 const int z = b.reshape(y, {0, 1, 4});
                 b.last().attributes["allowzero"] = ints({flawed});
                 return z;
               }),
      reshaped("a Reshape to a shape that is no constant",
               [](B& b, int y, bool flawed) {
                 const int z =
                     b.op("Reshape", {y, flawed ? b.input("s", {3}, DataType::Int64) : b.integers64({2, 3, 4})});
                 b.at(z).has_shape = true;
                 b.at(z).shape = {2, 3, 4};
                 return z;
               }),
      reshaped("a Reshape to a shape of another type",
               [](B& b, int y, bool flawed) {
                 return b.op("Reshape", {y, flawed ? b.integers({3}, {2, 3, 4}) : b.integers64({2, 3, 4})});
               }),
      reshaped("a Reshape of another domain",
               [](B& b, int y, bool flawed) {
                 const int z = b.reshape(y, {2, 3, 4});
                 if (flawed) b.last().domain = "elsewhere";
                 return z;
               }),
      {"a Flatten of the channels", "Reshape; Matrix Relu", "Matrix",
       [](B& b, bool flawed) {
         const int y = b.matmul(b.input("x", {2, 3, 8}), 8, 4);
         b.op("Relu", {b.op("Flatten", {y}, {{"axis", ints({flawed ? 1 : 2})}})});
       }},
      reshaped("a Flatten beyond the last axis",
               [](B& b, int y, bool flawed) {
                 return b.reshape(b.op("Flatten", {y}, {{"axis", ints({flawed ? 3 : 1})}}), {2, 3, 4});
               }),
      reshaped("an Unsqueeze behind the channels",
               [](B& b, int y, bool flawed) { return b.op("Unsqueeze", {y, b.integers64({flawed ? -1 : 1})}); }),
      reshaped("an Unsqueeze beyond the last axis",
               [](B& b, int y, bool flawed) { return b.op("Unsqueeze", {y, b.integers64({flawed ? 3 : 1})}); }),
      reshaped("an Unsqueeze of one axis twice",
               [](B& b, int y, bool flawed) { return b.op("Unsqueeze", {y, b.integers64({0, flawed ? -4 : 1})}); }),
      {"a Squeeze of more than one", "Reshape; Matrix Relu", "Matrix",
       [](B& b, bool flawed) {
         const int y = b.matmul(b.input("x", {flawed ? -1 : 1, 6, 8}), 8, 4);
         b.op("Relu", {b.op("Squeeze", {y, b.integers64({0})})});
       }},
      {"a Reshape that may copy a wrong size", "Matrix; Reshape; LayerNorm", "Matrix",
       [](B& b, bool flawed) {
         const int y = b.matmul(b.input("x", {-1, 6, 8}), 8, 8);
         b.output(y);
         b.op("LayerNormalization", {b.reshape(y, {flawed ? 0 : -1, 3, 8}), b.filled({8}, 1)});
       }},
      {"a Reshape to two sizes that are not known", "Matrix; Reshape; LayerNorm", "Matrix",
       [](B& b, bool flawed) {
         const int y = b.matmul(b.input("x", {-1, flawed ? -1 : 2, 3, 8}), 8, 8);
         b.output(y);
         b.op("LayerNormalization", {b.reshape(y, {0, -1, 8}), b.filled({8}, 1)});
       }},
      {"a Reshape in front that others read", "Reshape; Matrix", "Matrix",
       [](B& b, bool flawed) {
         const int x = b.reshape(b.input("x", {2, 3, 8}), {6, 8});
         b.matmul(x, 8, 4);
         if (flawed) b.op("Softmax", {x});
       }},
      {"a Reshape in front of a constant", "Reshape; Matrix", "Matrix",
       [](B& b, bool flawed) {
         b.matmul(b.reshape(flawed ? b.filled({2, 3, 8}, 1) : b.input("x", {2, 3, 8}), {6, 8}), 8, 4);
       }},
      {"a Reshape of an image", "Reshape; Matrix; LayerNorm", "Matrix",
       [](B& b, bool flawed) {
         const int x = b.input("x", {2, 8, 2, 8}), y = flawed ? b.conv(x, 8, 8) : b.matmul(x, 8, 8);
         b.op("LayerNormalization", {b.reshape(y, {4, 8, 1, 8}), b.filled({8}, 1)});
       }},
      {"a normalisation by scales of another number", "Matrix; LayerNorm", "Matrix",
       [](B& b, bool flawed) {
         b.op("LayerNormalization", {b.matmul(tokens(b), 8, 8), b.filled({flawed ? 7 : 8}, 1)});
       }},
      {"a normalisation in another precision", "Matrix; LayerNorm", "Matrix",
       [](B& b, bool flawed) {
         b.op("LayerNormalization", {b.matmul(tokens(b), 8, 8), b.filled({8}, 1)},
              {{"stash_type", ints({flawed ? 10 : 1})}});
       }},
      behind("a pool of padding alone at the end", "Matrix; AveragePool", "Matrix",
             [=](B& b, int y, bool flawed) {
               Attributes attributes = pool;
               attributes["pads"] = ints({0, 0, flawed ? 2 : 1, 0});
               b.op("AveragePool", {y}, attributes);
             }),
      behind("a pool with places of its maxima", "Matrix; MaxPool", "Matrix",
             [=](B& b, int y, bool flawed) {
               b.op("MaxPool", {y}, pool);
               const int places = b.tensor("places", DataType::Int64);
               b.last().outputs.push_back(places);
               if (flawed) b.output(places);
             }),
      behind("a pool in another order", "Matrix; MaxPool", "Matrix",
             [=](B& b, int y, bool flawed) {
               Attributes attributes = pool;
               attributes["storage_order"] = ints({flawed});
               b.op("MaxPool", {y}, attributes);
             }),
      behind("a pool without a window", "Matrix; MaxPool", "Matrix",
             [=](B& b, int y, bool flawed) { b.op("MaxPool", {y}, flawed ? Attributes() : pool); }),
      behind("a pool of padding alone", "Matrix; AveragePool", "Matrix",
             [=](B& b, int y, bool flawed) {
               Attributes attributes = pool;
               attributes["pads"] = ints({0, flawed ? 2 : 1, 0, 0});
               b.op("AveragePool", {y}, attributes);
             }),
      {"a normalisation over more than the last axis", "Matrix; LayerNorm", "Matrix",
       [](B& b, bool flawed) {
         b.op("LayerNormalization", {b.matmul(tokens(b), 8, 8), b.filled({8}, 1)}, {{"axis", ints({flawed ? 1 : 2})}});
       }},
      {"a normalisation with a scale that is no constant", "Matrix; LayerNorm", "Matrix",
       [](B& b, bool flawed) {
         b.op("LayerNormalization", {b.matmul(tokens(b), 8, 8), flawed ? b.input("s", {8}) : b.filled({8}, 1)});
       }},
      behind("a normalisation over the width of an image", "Matrix Relu", "Matrix",
             [](B& b, int y, bool flawed) {
               if (flawed) b.op("LayerNormalization", {y, b.filled({14}, 1)});
               if (!flawed) b.op("Relu", {y});
             }),
      behind("Dropout that is told to train", "Matrix Relu", "Matrix",
             [](B& b, int y, bool flawed) {
               std::vector<int> inputs = {y};
               if (flawed) inputs = {y, b.scalar(0.5f), b.input("train", {}, DataType::Undefined)};
               b.op("Relu", {b.op("Dropout", inputs)});
             }),

      {"a Gemm of bytes with a factor below zero", "Matrix8", "",
       [](B& b, bool flawed) {
         const int x = b.dequantize(b.input("x", {5, 8}, DataType::Uint8));
         b.quantize(b.op("Gemm", {x, b.dequantized_weights({8, 8}, 1)}, {{"alpha", real(flawed ? -1.0f : 1)}}));
       }},
      bias_of_bytes("a zero point of the bias", 2, {2}, {2}, 1),
      bias_of_bytes("a bias of bytes for other outputs", 2, {2}, {1}, 0),
      bias_of_bytes("a bias of bytes of two dimensions", 2, {2}, {1, 2}, 0),
      weights_of_bytes(
          "scales below zero",
          [](B& b, int data, bool flawed) { return b.op("DequantizeLinear", {data, b.scalar(flawed ? -1.0f : 1)}); }),
      weights_of_bytes("scales in blocks",
                       [](B& b, int data, bool flawed) {
                         return b.op("DequantizeLinear", {data, b.scalar(1)}, {{"block_size", ints({flawed ? 2 : 0})}});
                       }),
      weights_of_bytes("scales of two dimensions",
                       [](B& b, int data, bool flawed) {
                         return b.op("DequantizeLinear", {data, b.filled(flawed ? Shape{1, 8} : Shape{8}, 1)},
                                     {{"axis", ints({0})}});
                       }),
      weights_of_bytes("a zero point of another type",
                       [](B& b, int data, bool flawed) {
                         return b.op("DequantizeLinear",
                                     {data, b.scalar(1), flawed ? b.unsigned_bytes({}, {0}) : b.bytes({}, {0})});
                       }),
      weights_of_bytes("unsigned weights about 0",
                       [](B& b, int, bool flawed) {
                         const int data = b.unsigned_bytes({8, 8, 1, 1}, std::vector<uint8_t>(64, 128));
                         std::vector<int> inputs = {data, b.scalar(1)};
                         if (!flawed) inputs.push_back(b.unsigned_bytes({}, {128}));
                         return b.op("DequantizeLinear", inputs);
                       }),
      {"sums beyond 32 bits", "Matrix8", "",
       [](B& b, bool flawed) {
         const int64_t count = flawed ? 140000 : 120000;
         std::vector<int8_t> values(static_cast<size_t>(count));
         for (size_t i = 0; i < values.size(); i += 2) values[i] = 127;
         const int x = b.dequantize(b.input("x", {5, count}, DataType::Uint8));
         b.quantize(b.op("MatMul", {x, b.op("DequantizeLinear", {b.bytes({count, 1}, values), b.scalar(1)})}));
       }},
      {"a zero point of bytes of another sign", "Matrix8", "",
       [](B& b, bool flawed) {
         const int x = b.input("x", {1, 8, 7, 7}, DataType::Uint8);
         const int zero = flawed ? b.bytes({}, {3}) : b.unsigned_bytes({}, {3});
         const int real = b.op("DequantizeLinear", {x, b.scalar(1), zero});
         b.quantize(b.op("Conv", {real, b.dequantized_weights({8, 8, 1, 1})}));
       }},
      {"scales of bytes for each channel", "Matrix8", "",
       [](B& b, bool flawed) {
         const int x = b.input("x", {1, 8, 7, 7}, DataType::Uint8);
         const int real = b.op("DequantizeLinear", {x, b.filled({flawed ? 8 : 1}, 1)});
         b.quantize(b.op("Conv", {real, b.dequantized_weights({8, 8, 1, 1})}));
       }},
      {"zero points of bytes for each channel", "Matrix8", "",
       [](B& b, bool flawed) {
         const int x = b.input("x", {1, 8, 7, 7}, DataType::Uint8);
         const int zero = b.unsigned_bytes({flawed ? 8 : 1}, std::vector<uint8_t>(flawed ? 8 : 1));
         const int real = b.op("DequantizeLinear", {x, b.scalar(1), zero});
         b.quantize(b.op("Conv", {real, b.dequantized_weights({8, 8, 1, 1})}));
       }},
      behind_bytes("constant bytes to add", "Matrix8 rounded +residual Relu; Matrix8", "Matrix8 | Matrix8",
                   [](B& b, int y, bool flawed) {
                     int other = b.input("r", {1, 8, 7, 7}, DataType::Uint8);
                     if (flawed) other = b.unsigned_bytes({1, 8, 7, 7}, std::vector<uint8_t>(392));
                     const int sum = b.op("Add", {b.dequantize(y, 0.25f, 5), b.dequantize(other)});
                     const int made = b.quantize(b.op("Relu", {sum}));
                     b.quantize(b.op("Conv", {b.dequantize(made, 0.25f, 5), b.dequantized_weights({8, 8, 1, 1})}));
                   }),
      behind_bytes("a sum of bytes that broadcasts", "Matrix8 rounded +residual Relu; Matrix8", "Matrix8 | Matrix8",
                   [](B& b, int y, bool flawed) {
                     const int other = b.input("r", {1, 8, 7, flawed ? 1 : 7}, DataType::Uint8);
                     const int sum = b.op("Add", {b.dequantize(y, 0.25f, 5), b.dequantize(other)});
                     const int made = b.quantize(b.op("Relu", {sum}));
                     b.quantize(b.op("Conv", {b.dequantize(made, 0.25f, 5), b.dequantized_weights({8, 8, 1, 1})}));
                   }),
      behind_bytes("a QLinearAdd that broadcasts", "Matrix8; Sum8; Matrix8", "Matrix8 | Matrix8",
                   [](B& b, int y, bool flawed) {
                     const int other = b.input("r", {1, 8, 7, flawed ? 1 : 7}, DataType::Uint8);
                     const int scale = b.scalar(0.25f), zero = b.unsigned_bytes({}, {5});
                     const int made = b.op("com.microsoft:QLinearAdd",
                                           {y, scale, zero, other, scale, zero, scale, zero}, {}, DataType::Uint8);
                     b.quantize(b.op("Conv", {b.dequantize(made, 0.25f, 5), b.dequantized_weights({8, 8, 1, 1})}));
                   }),
      behind_bytes(
          "a MaxPool of bytes to another type", "Matrix8; MaxPool8", "Matrix8",
          [=](B& b, int y, bool flawed) { b.op("MaxPool", {y}, pool, flawed ? DataType::Int8 : DataType::Uint8); }),
      behind_bytes("a global average with channels last", "Matrix8; GlobalAveragePool8", "Matrix8",
                   [](B& b, int y, bool flawed) {
                     const int scale = b.scalar(0.25f), zero = b.unsigned_bytes({}, {5});
                     b.op("com.microsoft:QLinearGlobalAveragePool", {y, scale, zero, scale, zero},
                          {{"channels_last", ints({flawed})}}, DataType::Uint8);
                   }),
      behind_bytes("an average with channels last", "Matrix8; AveragePool8", "Matrix8",
                   [](B& b, int y, bool flawed) {
                     const int scale = b.scalar(0.25f), zero = b.unsigned_bytes({}, {5});
                     b.op("com.microsoft:QLinearAveragePool", {y, scale, zero, scale, zero},
                          {{"channels_last", ints({flawed})}, {"kernel_shape", ints({2, 2})}}, DataType::Uint8);
                   }),
      behind_bytes("a Relu of bytes read with another scale", "Matrix8 Relu", "Matrix8",
                   [](B& b, int y, bool flawed) {
                     b.quantize(b.op("Relu", {b.dequantize(y, flawed ? 0.5f : 0.25f, 5)}), 0.2f, 4);
                   }),
      behind_bytes("a Relu of bytes read with another zero point", "Matrix8 Relu", "Matrix8",
                   [](B& b, int y, bool flawed) {
                     b.quantize(b.op("Relu", {b.dequantize(y, 0.25f, flawed ? 6 : 5)}), 0.2f, 4);
                   }),
      behind_bytes("a Relu of bytes that are read elsewhere", "Matrix8 Relu", "Matrix8",
                   [](B& b, int y, bool flawed) {
                     b.quantize(b.op("Relu", {b.dequantize(y, 0.25f, 5)}), 0.2f, 4);
                     if (flawed) b.op("Softmax", {y}, {}, DataType::Uint8);
                   }),
      behind_bytes("a Relu of bytes in floats", "Matrix8 Relu", "Matrixf rounded Relu",
                   [](B& b, int y, bool flawed) {
                     const int relu = b.op("Relu", {b.dequantize(y, 0.25f, 5)});
                     if (!flawed) b.quantize(relu, 0.2f, 4);
                   }),
      behind_bytes("a first quantization that is much coarser", "Matrix8 Relu", "Matrix8; Activate8 Relu",
                   [](B& b, int y, bool flawed) {
                     b.quantize(b.op("Relu", {b.dequantize(y, 0.25f, 5)}), flawed ? 0.0624f : 0.0626f, 4);
                   }),
      behind_bytes("more than a limit between two quantizations", "Matrix8 Relu", "Matrix8 rounded LeakyRelu",
                   [](B& b, int y, bool flawed) {
                     b.quantize(b.op(flawed ? "LeakyRelu" : "Relu", {b.dequantize(y, 0.25f, 5)}), 0.2f, 4);
                   }),
      {"more than a limit before two quantizations", "Matrix8 Relu", "Matrix8 Sigmoid; Activate8 Relu",
       [](B& b, bool flawed) {
         const int x = b.dequantize(b.input("x", {1, 8, 7, 7}, DataType::Uint8));
         int y = b.op("Conv", {x, b.dequantized_weights({8, 8, 1, 1})});
         if (flawed) y = b.op("Sigmoid", {y});
         b.quantize(b.op("Relu", {b.dequantize(b.quantize(y), 0.25f, 5)}), 0.2f, 4);
       }},
      behind_bytes("a pool between two quantizations", "Matrix8; AveragePool8", "Matrix8; AveragePool8; Activate8 Relu",
                   [=](B& b, int y, bool flawed) {
                     const int made = b.quantize(b.op("AveragePool", {b.dequantize(y, 0.25f, 5)}, pool));
                     if (flawed) b.quantize(b.op("Relu", {b.dequantize(made, 0.25f, 5)}), 0.2f, 4);
                   }),
      {"a zero point of weights", "Matrix8", "",
       [](B& b, bool flawed) {
         qlinear(b, b.byte_weights({8, 8, 1, 1}), b.bytes({}, {static_cast<int8_t>(flawed)}), 1, -1, 8);
       }},
      {"unsigned weights without their zero point", "Matrix8", "",
       [](B& b, bool flawed) {
         qlinear(b, b.unsigned_bytes({1, 8, 1, 1}, {128, 128, 128, 128, 128, 0, 0, 0}),
                 b.unsigned_bytes({}, {static_cast<uint8_t>(flawed ? 127 : 128)}), 1, -1, 1);
       }},
      {"a scale of zero", "Matrix8", "",
       [](B& b, bool flawed) { qlinear(b, b.byte_weights({8, 8, 1, 1}), b.bytes({}, {0}), flawed ? 0.0f : 1, -1, 8); }},
      {"a bias of bytes of another size", "Matrix8 +bias", "",
       [](B& b, bool flawed) {
         const int bias = b.integers({flawed ? 1 : 2}, std::vector<int32_t>(flawed ? 1 : 2, 3));
         qlinear(b, b.byte_weights({2, 8, 1, 1}), b.bytes({}, {0}), 1, bias, 2);
       }},
      {"scales for other outputs", "Matrix8", "",
       [](B& b, bool flawed) { qlinear(b, b.byte_weights({8, 8, 1, 1}), b.bytes({}, {0}), 1, -1, flawed ? 7 : 8); }},
      {"no QuantizeLinear", "Matrix8", "Matrixf",
       [](B& b, bool flawed) {
         const int x = b.dequantize(b.input("x", {1, 8, 7, 7}, DataType::Uint8));
         const int y = b.op("Conv", {x, b.dequantized_weights({8, 8, 1, 1})});
         if (!flawed) b.quantize(y);
       }},
      {"scales along another axis", "Matrix8", "",
       [](B& b, bool flawed) {
         const int x = b.dequantize(b.input("x", {5, 8}, DataType::Uint8));
         b.quantize(b.op("MatMul", {x, b.dequantized_weights({8, 8}, flawed ? 0 : 1)}));
       }},
      {"weights of bytes for an input of floats", "Matrix8", "",
       [](B& b, bool flawed) {
         int x = b.input("x", {1, 8, 7, 7}, flawed ? DataType::Float : DataType::Uint8);
         if (!flawed) x = b.dequantize(x);
         b.quantize(b.op("Conv", {x, b.dequantized_weights({8, 8, 1, 1})}));
       }},
      {"a DequantizeLinear that others read", "Matrix8", "",
       [](B& b, bool flawed) {
         const int x = b.dequantize(b.input("x", {1, 8, 7, 7}, DataType::Uint8));
         b.quantize(b.op("Conv", {x, b.dequantized_weights({8, 8, 1, 1})}));
         if (flawed) b.op("Softmax", {x});
       }},
      {"a MaxPool that quantizes anew", "Matrix8; MaxPool8", "Matrix8; Activatef; MaxPool",
       [=](B& b, bool flawed) {
         const int x = b.dequantize(b.input("x", {1, 8, 7, 7}, DataType::Uint8));
         const int y = b.quantize(b.op("Conv", {x, b.dequantized_weights({8, 8, 1, 1})}));
         b.quantize(b.op("MaxPool", {b.dequantize(y, 0.25f, 5)}, pool), 0.25f, flawed ? 6 : 5);
       }},
      behind_bytes("a constant behind bytes that are read elsewhere", "Matrix8 rounded +bias", "Matrix8",
                   [](B& b, int y, bool flawed) {
                     b.quantize(b.op("Add", {b.filled({8, 1, 1}, 1), b.dequantize(y, 0.25f, 5)}));
                     if (flawed) b.op("Softmax", {y}, {}, DataType::Uint8);
                   }),
      behind_bytes("a constant that is not one for each channel", "Matrix8 rounded +bias", "Matrix8",
                   [](B& b, int y, bool flawed) {
                     const int constant = flawed ? b.filled({7}, 1) : b.filled({8, 1, 1}, 1);
                     b.quantize(b.op("Add", {b.dequantize(y, 0.25f, 5), constant}));
                   }),
      behind_bytes("constant bytes with a scale for each of several axes", "Matrix8 rounded +bias", "Matrix8",
                   [](B& b, int y, bool flawed) {
                     const int codes = b.bytes({8, 1, 1}, std::vector<int8_t>(8, 3));
                     const int scale = flawed ? b.filled({8}, 0.5f) : b.scalar(0.5f);
                     b.quantize(b.op("Add", {b.dequantize(y, 0.25f, 5), b.op("DequantizeLinear", {codes, scale})}));
                   }),
      behind_bytes("a DequantizeLinear that nothing is made of", "Matrix8; Activatef; MaxPool", "Matrix8",
                   [=](B& b, int y, bool flawed) {
                     const int floats = b.dequantize(y, 0.25f, 5);
                     flawed ? b.op("Softmax", {floats}) : b.op("MaxPool", {floats}, pool);
                   }),
      {"a QuantizeLinear in front", "Matrixf; Activate8; Matrix8", "Matrix8",
       [](B& b, bool flawed) {
         const int x = b.dequantize(b.input("x", {1, 8, 7, 7}, DataType::Uint8));
         const int y = flawed ? b.op("Softmax", {x}) : quantized_conv(b, x);
         b.output(y);
         b.quantize(quantized_conv(b, b.dequantize(b.quantize(y), 0.25f, 5)));
       }},
      {"bytes read with another scale", "Matrix8 rounded Sigmoid", "Matrix8",
       [](B& b, bool flawed) {
         const int x = b.dequantize(b.input("x", {1, 8, 7, 7}, DataType::Uint8));
         const int y = b.quantize(b.op("Conv", {x, b.dequantized_weights({8, 8, 1, 1})}));
         b.quantize(b.op("Sigmoid", {b.dequantize(y, flawed ? 0.5f : 0.25f, 5)}));
       }},
  };
}

void run(const Case& test) {
  for (const bool flawed : {false, true}) {
    B b;
    test.build(b, flawed);
    const std::string found = describe(claim_half(b.finish())), expected = flawed ? test.with : test.without;
    if (found == expected) continue;
    std::printf("%s %s: \"%s\", expected \"%s\"\n", flawed ? "with" : "without", test.flaw, found.c_str(),
                expected.c_str());
    ++failures;
  }
}

// What does not pay is asked about once, with the whole layer, and left alone.
void ask_worth() {
  B b;
  const int x = b.input("x", {-1, 8, 14, 14}), y = b.conv(x, 8, 8);
  b.conv(b.op("Relu", {y}), 8, 4);
  int asked = 0;
  ClaimOptions options;
  options.threshold = 0.5;
  options.worth = [&](const Layer& layer, const Value& input, const std::vector<int64_t>& shape) {
    ++asked;
    CHECK(input.channels == 8 && input.spatial == 2);
    CHECK((shape == std::vector<int64_t>{-1, 8, 14, 14}));
    CHECK((layer.activation.kind == Activation::Relu) == (layer.weights.outputs == 8));
    return layer.weights.outputs == 4;
  };
  CHECK(describe(claim(b.finish(), options)) == "Matrix");
  CHECK(asked == 2);
}

// Of a graph that was cut out, every operator has to be covered.
void refuse_uncovered() {
  B b;
  b.op("Softmax", {b.conv(b.input("x", {1, 8, 7, 7}), 8, 8)});
  std::string message;
  try {
    region_of(b.finish());
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  CHECK(message == "no layer covers Softmax 'Softmax1'");
}

}  // namespace

int main() {
  for (const Case& test : cases()) run(test);
  ask_worth();
  refuse_uncovered();
  return failures != 0;
}
