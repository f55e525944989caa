// Each pattern of operators, and the layers that it becomes: claimed, and once more cut out by itself.
#include <functional>

#include "check.h"
#include "graph_builder.h"

namespace {

using namespace sparse;
using B = GraphBuilder;

struct Case {
  const char* name;
  const char* expected;
  std::function<void(B&)> build;
};

int image(B& b) { return b.input("x", {1, 8, 14, 14}); }
int tokens(B& b) { return b.input("x", {1, 5, 8}); }

// An activation behind a convolution.
Case behind_conv(const char* name, const char* expected, std::function<int(B&, int)> activation) {
  return {name, expected, [=](B& b) { activation(b, b.conv(image(b), 8, 8)); }};
}

int gelu_factor(B& b, int x, bool multiply) {
  const int inner = multiply ? b.op("Mul", {b.scalar(0.70710678f), x}) : b.op("Div", {x, b.scalar(1.41421356f)});
  return b.op("Add", {b.op("Erf", {inner}), b.scalar(1.0f)});
}

// A linear layer over tokens as ONNX Runtime writes it, in two dimensions between two Reshapes.
int linear(B& b, int x, int64_t in, int64_t out, const Shape& flat, Shape shape) {
  const int y = b.op("Gemm", {b.reshape(x, flat), b.weights({in, out}), b.filled({out}, 1)});
  shape.push_back(out);
  return b.reshape(y, shape);
}

int quantized_input(B& b) { return b.dequantize(b.input("x", {1, 8, 14, 14}, DataType::Uint8)); }
int quantized_product(B& b, int x) { return b.op("MatMul", {b.dequantize(x), b.dequantized_weights({8, 8}, 1)}); }
int rounded_product(B& b, int x) { return b.dequantize(b.quantize(quantized_product(b, x)), 0.25f, 5); }
int quantized_conv(B& b, int x) { return b.op("Conv", {x, b.dequantized_weights({8, 8, 1, 1})}); }

int qlinear_conv(B& b, int x, bool bias) {
  std::vector<int> inputs = {x,
                             b.scalar(0.5f),
                             b.unsigned_bytes({}, {3}),
                             b.byte_weights({8, 8, 3, 3}),
                             b.filled({8}, 0.25f),
                             b.bytes({8}, std::vector<int8_t>(8)),
                             b.scalar(0.25f),
                             b.unsigned_bytes({}, {5})};
  if (bias) inputs.push_back(b.integers({8}, {1, 2, 3, 4, 5, 6, 7, 8}));
  return b.op("QLinearConv", inputs, {{"pads", ints({1, 1, 1, 1})}}, DataType::Uint8);
}

const Case cases[] = {
    {"Conv", "Matrix", [](B& b) { b.conv(image(b), 8, 8, 3); }},
    {"Conv with bias", "Matrix +bias",
     [](B& b) { b.op("Conv", {image(b), b.weights({8, 8, 1, 1}), b.filled({8}, 1.0f)}); }},
    {"Conv1d", "Matrix", [](B& b) { b.op("Conv", {b.input("x", {1, 8, 14}), b.weights({4, 8, 3})}); }},
    {"grouped Conv", "Matrix", [](B& b) { b.op("Conv", {image(b), b.weights({8, 2, 1, 1})}, {{"group", ints({4})}}); }},
    {"Gemm", "Matrix", [](B& b) { b.op("Gemm", {b.input("x", {3, 8}), b.weights({8, 4})}); }},
    {"Gemm with bias of one row", "Matrix +bias",
     [](B& b) {
       b.op("Gemm", {b.input("x", {3, 8}), b.weights({4, 8}), b.filled({1, 4}, 1.0f)}, {{"transB", ints({1})}});
     }},
    {"Gemm that adds a value", "Matrix +residual Relu",
     [](B& b) {
       b.op("Relu", {b.op("Gemm", {b.input("x", {-1, 8}, DataType::Float, {"n", ""}), b.weights({8, 4}),
                                   b.input("r", {-1, 4}, DataType::Float, {"n", ""})})});
     }},
    {"Gemm that adds a value, reshaped behind", "Matrix +residual; Reshape",
     [](B& b) { b.reshape(b.op("Gemm", {b.input("x", {6, 8}), b.weights({8, 4}), b.input("r", {6, 4})}), {2, 3, 4}); }},
    {"MatMul", "Matrix", [](B& b) { b.matmul(tokens(b), 8, 4); }},
    {"MatMul of rank 2", "Matrix", [](B& b) { b.matmul(b.input("x", {3, 8}), 8, 4); }},
    {"MatMul of rank 4", "Matrix", [](B& b) { b.matmul(b.input("x", {2, 3, 5, 8}), 8, 4); }},
    {"sizes not known", "Matrix Relu", [](B& b) { b.op("Relu", {b.conv(b.input("x", {-1, -1, -1, -1}), 8, 8)}); }},

    {"bias behind Conv", "Matrix +bias Relu",
     [](B& b) { b.op("Relu", {b.op("Add", {b.conv(image(b), 8, 8), b.filled({1, 8, 1, 1}, 1)})}); }},
    {"bias of rank 3", "Matrix +bias", [](B& b) { b.op("Add", {b.filled({8, 1, 1}, 1), b.conv(image(b), 8, 8)}); }},
    {"one number as bias", "Matrix +bias", [](B& b) { b.op("Add", {b.scalar(2), b.conv(image(b), 8, 8)}); }},
    {"bias behind MatMul", "Matrix +bias", [](B& b) { b.op("Add", {b.matmul(tokens(b), 8, 4), b.filled({4}, 1)}); }},
    {"normalisation behind Conv", "Matrix +bias Relu",
     [](B& b) {
       const int y = b.conv(image(b), 8, 8);
       b.op("Relu",
            {b.op("BatchNormalization", {y, b.filled({8}, 2), b.filled({8}, 1), b.filled({8}, 0), b.filled({8}, 3)})});
     }},
    {"Identity and Dropout vanish", "Matrix Relu",
     [](B& b) { b.op("Relu", {b.op("Dropout", {b.op("Identity", {b.conv(image(b), 8, 8)})})}); }},

    {"residual", "Matrix +residual Relu",
     [](B& b) {
       const int x = image(b);
       b.op("Relu", {b.op("Add", {b.conv(x, 8, 8, 3), x})});
     }},
    {"residual as the first operand", "Matrix +residual",
     [](B& b) {
       const int x = image(b);
       b.op("Add", {x, b.conv(x, 8, 8, 3)});
     }},
    {"residual of sizes not known", "Matrix; Matrix +residual",
     [](B& b) {
       const int x = b.input("x", {-1, 8, -1, -1});
       const Attributes stride = {{"strides", ints({2, 2})}};
       b.op("Add", {b.conv(x, 8, 8, 3, stride), b.conv(x, 8, 8, 1, stride)});
     }},
    {"residual of sizes not known, padded to the same size", "Matrix; Matrix +residual",
     [](B& b) {
       const int x = b.input("x", {-1, 8, -1, -1});
       const Attributes stride = {{"strides", ints({2, 2})}};
       const int wide =
           b.op("Conv", {x, b.weights({8, 8, 4, 4})}, {{"strides", ints({2, 2})}, {"auto_pad", text("SAME_UPPER")}});
       b.op("Add", {b.conv(x, 8, 8, 1, stride), wide});
     }},
    {"residual of sizes not known, without the padding that is stated", "Matrix; Matrix +residual",
     [](B& b) {
       const int x = b.input("x", {-1, 8, -1, -1});
       const int valid =
           b.op("Conv", {x, b.weights({8, 8, 3, 3})}, {{"pads", ints({1, 1, 1, 1})}, {"auto_pad", text("VALID")}});
       b.op("Add", {valid, b.op("Conv", {x, b.weights({8, 8, 3, 3})})});
     }},
    {"residual scaled by channels", "Matrix +residual",
     [](B& b) {
       const int x = b.input("x", {-1, 8, -1, -1});
       b.op("Add", {b.conv(x, 8, 8), b.op("Mul", {x, b.filled({1, 8, 1, 1}, 2)})});
     }},
    {"residual times itself", "Matrix +residual",
     [](B& b) {
       const int x = b.input("x", {-1, 8, -1, -1});
       b.op("Add", {b.conv(x, 8, 8), b.op("Mul", {x, x})});
     }},
    {"residual times a value of known size", "Matrix +residual",
     [](B& b) {
       const int x = b.input("x", {-1, 8}), y = b.input("y", {5, 8});
       b.op("Add", {b.matmul(y, 8, 8), b.op("Mul", {x, y})});
     }},
    {"residual of a symbol", "Matrix +residual",
     [](B& b) {
       const int x = b.input("x", {-1, 8}, DataType::Float, {"n", ""});
       b.op("Add", {b.matmul(b.input("y", {-1, 4}, DataType::Float, {"n", ""}), 4, 8), x});
     }},
    {"two products meet: the first operand's takes the second", "Matrix; Matrix +residual",
     [](B& b) {
       const int x = image(b), left = b.conv(x, 8, 8), right = b.conv(x, 8, 8, 3);
       b.op("Add", {right, left});
     }},
    {"two products meet, first operand made first", "Matrix Relu; Matrix +residual",
     [](B& b) {
       const int x = image(b), left = b.conv(x, 8, 8), right = b.op("Relu", {b.conv(x, 8, 8, 3)});
       b.op("Add", {left, right});
     }},

    behind_conv("Relu", "Matrix Relu", [](B& b, int y) { return b.op("Relu", {y}); }),
    behind_conv("LeakyRelu", "Matrix LeakyRelu", [](B& b, int y) { return b.op("LeakyRelu", {y}); }),
    behind_conv("Sigmoid", "Matrix Sigmoid", [](B& b, int y) { return b.op("Sigmoid", {y}); }),
    behind_conv("HardSigmoid", "Matrix HardSigmoid", [](B& b, int y) { return b.op("HardSigmoid", {y}); }),
    behind_conv("HardSwish", "Matrix HardSwish", [](B& b, int y) { return b.op("HardSwish", {y}); }),
    behind_conv("Clip", "Matrix Clip", [](B& b, int y) { return b.op("Clip", {y, b.scalar(0), b.scalar(6)}); }),
    behind_conv("Clip without a bound", "Matrix Clip", [](B& b, int y) { return b.op("Clip", {y, -1, b.scalar(6)}); }),
    behind_conv("Clip of old", "Matrix Clip",
                [](B& b, int y) { return b.op("Clip", {y}, {{"max", real(6)}}, DataType::Float, 6); }),
    behind_conv("Gelu", "Matrix Gelu", [](B& b, int y) { return b.op("Gelu", {y}); }),
    behind_conv("Gelu by tanh", "Matrix GeluTanh",
                [](B& b, int y) { return b.op("Gelu", {y}, {{"approximate", text("tanh")}}); }),
    behind_conv("Microsoft's Gelu", "Matrix Gelu", [](B& b, int y) { return b.op("com.microsoft:Gelu", {y}); }),
    behind_conv("FastGelu", "Matrix GeluTanh", [](B& b, int y) { return b.op("com.microsoft:FastGelu", {y}); }),
    behind_conv("HardSwish as HardSigmoid times x", "Matrix HardSwish",
                [](B& b, int y) { return b.op("Mul", {y, b.op("HardSigmoid", {y}, {{"alpha", real(1.0f / 6)}})}); }),
    behind_conv("HardSwish as Add, Clip, Div, Mul", "Matrix HardSwish",
                [](B& b, int y) {
                  const int clip = b.op("Clip", {b.op("Add", {y, b.scalar(3)}), b.scalar(0), b.scalar(6)});
                  return b.op("Mul", {y, b.op("Div", {clip, b.scalar(6)})});
                }),
    behind_conv("HardSwish as Add, Clip, Mul, Div", "Matrix HardSwish",
                [](B& b, int y) {
                  const int clip = b.op("Clip", {b.op("Add", {b.scalar(3), y}), b.scalar(0), b.scalar(6)});
                  return b.op("Div", {b.op("Mul", {clip, y}), b.scalar(6)});
                }),
    behind_conv("Gelu spelled out, times x, times a half", "Matrix Gelu",
                [](B& b, int y) { return b.op("Mul", {b.op("Mul", {y, gelu_factor(b, y, false)}), b.scalar(0.5f)}); }),
    behind_conv("Gelu spelled out, a half of x", "Matrix Gelu",
                [](B& b, int y) {
                  const int half = b.op("Mul", {y, b.scalar(0.5f)});
                  return b.op("Mul", {half, gelu_factor(b, y, true)});
                }),
    behind_conv("Gelu spelled out, a half of the factor", "Matrix Gelu",
                [](B& b, int y) { return b.op("Mul", {b.op("Mul", {gelu_factor(b, y, false), b.scalar(0.5f)}), y}); }),

    {"MaxPool between", "Matrix; MaxPool; Matrix",
     [](B& b) {
       b.conv(b.op("MaxPool", {b.conv(image(b), 8, 8)}, {{"kernel_shape", ints({2, 2})}, {"strides", ints({2, 2})}}), 8,
              8);
     }},
    {"AveragePool at the end", "Matrix; AveragePool",
     [](B& b) { b.op("AveragePool", {b.conv(image(b), 8, 8)}, {{"kernel_shape", ints({2, 2})}}); }},
    {"GlobalAveragePool at the end", "Matrix; GlobalAveragePool",
     [](B& b) { b.op("GlobalAveragePool", {b.conv(image(b), 8, 8)}); }},
    {"Sum where a branch is used twice", "Matrix; Matrix; Sum Relu; Matrix",
     [](B& b) {
       const int x = image(b), left = b.conv(x, 8, 8), right = b.conv(x, 8, 8, 3);
       b.output(left);
       b.output(right);
       b.conv(b.op("Relu", {b.op("Add", {left, right})}), 8, 8);
     }},
    {"activation of a value used twice", "Matrix; Activate Relu; Matrix +residual",
     [](B& b) {
       const int y = b.conv(image(b), 8, 8);
       b.op("Add", {b.conv(b.op("Relu", {y}), 8, 8), y});
     }},
    {"encoder: projection, normalisation, feed forward",
     "Matrix +bias +residual; LayerNorm; Matrix +bias Gelu; Matrix +bias +residual; LayerNorm; Matrix +bias",
     [](B& b) {
       const int x = tokens(b);
       const auto dense = [&](int from, int64_t in, int64_t out) {
         return b.op("Add", {b.matmul(from, in, out), b.filled({out}, 1)});
       };
       const auto norm = [&](int from) {
         return b.op("LayerNormalization", {from, b.filled({8}, 1), b.filled({8}, 0)}, {{"axis", ints({-1})}});
       };
       const int attended = b.op("Softmax", {x});
       const int first = norm(b.op("Add", {dense(attended, 8, 8), x}));
       const int inner = b.op("Gelu", {dense(first, 8, 32)});
       dense(norm(b.op("Add", {dense(inner, 32, 8), first})), 8, 8);
     }},
    {"normalisation of a residual sum", "Matrix; Sum; LayerNorm; Matrix",
     [](B& b) {
       const int y = b.matmul(tokens(b), 8, 8);
       b.output(y);
       const int sum = b.op("Add", {y, b.input("r", {1, 5, 8})});
       b.matmul(b.op("LayerNormalization", {sum, b.filled({8}, 1)}), 8, 4);
     }},
    {"Gemm between two Reshapes", "Matrix +bias Gelu",
     [](B& b) { b.op("Gelu", {linear(b, tokens(b), 8, 4, {5, 8}, {1, 5})}); }},
    {"Gemm between two Reshapes, batch not known", "Matrix +bias +residual",
     [](B& b) {
       const int x = b.input("x", {-1, 5, 8});
       b.op("Add", {linear(b, x, 8, 8, {-1, 8}, {-1, 5}), x});
     }},
    {"Gemm between two Reshapes, copied sizes", "Matrix +bias Relu",
     [](B& b) { b.op("Relu", {linear(b, b.input("x", {-1, 5, 8}), 8, 4, {-1, 8}, {-1, 5})}); }},
    {"encoder between Reshapes",
     "Matrix +residual; LayerNorm; Matrix +bias Gelu; Matrix +bias +residual; LayerNorm; Matrix",
     [](B& b) {
       const int x = b.input("x", {2, 5, 8});
       const auto norm = [&](int from) { return b.op("LayerNormalization", {from, b.filled({8}, 1)}); };
       const int first = norm(b.op("Add", {b.matmul(b.op("Softmax", {x}), 8, 8), x}));
       const int inner = linear(b, first, 8, 16, {10, 8}, {2, 5});
       const int half = b.op("Mul", {b.op("Mul", {inner, gelu_factor(b, inner, false)}), b.scalar(0.5f)});
       b.matmul(norm(b.op("Add", {linear(b, half, 16, 8, {10, 16}, {2, 5}), first})), 8, 8);
     }},
    {"Reshape behind, what follows has its shape", "Reshape; Matrix +residual Relu",
     [](B& b) {
       const int y = b.reshape(b.matmul(b.input("x", {6, 8}), 8, 4), {2, 3, 4});
       b.op("Relu", {b.op("Add", {y, b.input("r", {2, 3, 4})})});
     }},
    {"Reshape in front", "Reshape; Matrix +bias",
     [](B& b) { b.op("Gemm", {b.reshape(b.input("x", {2, 3, 8}), {6, 8}), b.weights({8, 4}), b.filled({4}, 1)}); }},
    {"Reshape between two products belongs to the first", "Reshape; Matrix; Matrix",
     [](B& b) { b.matmul(b.reshape(b.matmul(b.input("x", {6, 8}), 8, 4), {2, 3, 4}), 4, 8); }},
    {"Reshape of as many tokens in another order of sizes", "Reshape; Matrix",
     [](B& b) { b.reshape(b.matmul(b.input("x", {-1, 5, 8}), 8, 4), {5, -1, 4}); }},
    {"Squeeze that leaves the sizes in front", "Reshape; Matrix Relu",
     [](B& b) { b.op("Relu", {b.op("Squeeze", {b.matmul(b.input("x", {5, 1, 8}), 8, 4), b.integers64({1})})}); }},
    {"Reshape between two products, the second of which is looked at first",
     "Matrix; Reshape; Matrix; Matrix +residual",
     [](B& b) {
       const int first = b.matmul(b.input("x", {2, 3, 8}), 8, 8);
       const int inner = b.reshape(b.matmul(b.input("y", {6, 8}), 8, 8), {2, 3, 8});
       b.op("Add", {b.matmul(inner, 8, 8), first});
     }},
    {"residual of as many tokens", "Reshape; Matrix +residual",
     [](B& b) {
       const int x = b.reshape(b.input("x", {-1, -1, 8}, DataType::Float, {"n", "m", ""}), {-1, 8});
       const int r = b.reshape(b.input("r", {-1, -1, 8}, DataType::Float, {"m", "n", ""}), {-1, 8});
       b.op("Add", {b.matmul(x, 8, 8), r});
     }},
    {"Reshape of a value used twice", "Matrix; Reshape; Sum; Matrix",
     [](B& b) {
       const int y = b.matmul(b.input("x", {6, 8}), 8, 8);
       b.output(y);
       b.matmul(b.op("Add", {b.reshape(y, {2, 3, 8}), b.input("r", {2, 3, 8})}), 8, 4);
     }},
    {"Reshape that copies a size", "Matrix; Reshape; LayerNorm",
     [](B& b) {
       const int y = b.matmul(b.input("x", {-1, 2, 3, 8}), 8, 8);
       b.output(y);
       b.op("LayerNormalization", {b.reshape(y, {0, 6, 8}), b.filled({8}, 1)});
     }},
    {"Flatten", "Matrix; Reshape; LayerNorm",
     [](B& b) {
       const int y = b.matmul(b.input("x", {-1, 3, 8}), 8, 8);
       b.output(y);
       b.op("LayerNormalization", {b.op("Flatten", {y}, {{"axis", ints({-1})}}), b.filled({8}, 1)});
     }},
    {"Squeeze and Unsqueeze", "Matrix; Reshape; LayerNorm; Reshape; Sum; Matrix",
     [](B& b) {
       const int y = b.matmul(tokens(b), 8, 8);
       b.output(y);
       const int rows = b.op("Squeeze", {y, b.integers64({0})});
       const int norm = b.op("LayerNormalization", {rows, b.filled({8}, 1)});
       b.matmul(b.op("Add", {b.op("Unsqueeze", {norm, b.integers64({-4, 1})}), b.input("r", {1, 1, 5, 8})}), 8, 4);
     }},
    {"Squeeze and Unsqueeze of old", "Reshape; Matrix",
     [](B& b) {
       const int y = b.matmul(b.input("x", {1, -1, 8}), 8, 8);
       const int rows = b.op("Squeeze", {y}, {{"axes", ints({0})}}, DataType::Float, 11);
       b.op("Unsqueeze", {rows}, {{"axes", ints({1})}}, DataType::Float, 11);
     }},
    {"three products of one value", "Matrix; Matrix; Matrix",
     [](B& b) {
       const int x = tokens(b);
       for (int i = 0; i < 3; ++i) b.matmul(x, 8, 8);
     }},

    {"QLinearConv", "Matrix8", [](B& b) { qlinear_conv(b, b.input("x", {1, 8, 7, 7}, DataType::Uint8), false); }},
    {"QLinearConv with bias, MaxPool of bytes", "Matrix8 +bias; MaxPool8; Matrix8",
     [](B& b) {
       const int y = qlinear_conv(b, b.input("x", {1, 8, 7, 7}, DataType::Uint8), true);
       const int pooled = b.op("MaxPool", {y}, {{"kernel_shape", ints({2, 2})}}, DataType::Uint8);
       b.op("QLinearConv",
            {pooled, b.scalar(0.25f), b.unsigned_bytes({}, {5}), b.byte_weights({8, 8, 1, 1}), b.scalar(1),
             b.bytes({}, {0}), b.scalar(0.25f), b.unsigned_bytes({}, {5})},
            {}, DataType::Uint8);
     }},
    {"QLinearConv with unsigned weights about 128", "Matrix8",
     [](B& b) {
       b.op("QLinearConv",
            {b.input("x", {1, 2, 7, 7}, DataType::Uint8), b.scalar(0.5f), b.unsigned_bytes({}, {3}),
             b.unsigned_bytes({2, 2, 1, 1}, {128, 128, 0, 255}), b.scalar(1), b.unsigned_bytes({}, {128}), b.scalar(1),
             b.unsigned_bytes({}, {0})},
            {}, DataType::Uint8);
     }},
    {"QLinearMatMul", "Matrix8",
     [](B& b) {
       b.op("QLinearMatMul",
            {b.input("x", {2, 5, 8}, DataType::Int8), b.scalar(0.5f), b.bytes({}, {3}), b.byte_weights({8, 4}),
             b.filled({4}, 0.5f), b.bytes({4}, {0, 0, 0, 0}), b.scalar(1), b.bytes({}, {-7})},
            {}, DataType::Int8);
     }},
    {"Conv between DequantizeLinear and QuantizeLinear", "Matrix8 Relu",
     [](B& b) { b.quantize(b.op("Relu", {quantized_conv(b, quantized_input(b))})); }},
    {"with a bias of integers", "Matrix8 +bias",
     [](B& b) {
       const int x = quantized_input(b), w = b.dequantized_weights({8, 8, 1, 1});
       const int bias = b.op("DequantizeLinear", {b.integers({8}, {1, 2, 3, 4, 5, 6, 7, 8}), b.filled({8}, 0.5f)},
                             {{"axis", ints({0})}});
       b.quantize(b.op("Conv", {x, w, bias}));
     }},
    {"MatMul of bytes with a bias and Gelu", "Matrix8 +bias Gelu",
     [](B& b) {
       const int x = b.dequantize(b.input("x", {2, 5, 8}, DataType::Uint8));
       const int y = b.op("MatMul", {x, b.dequantized_weights({8, 4}, 1)});
       b.quantize(b.op("Gelu", {b.op("Add", {y, b.filled({4}, 1)})}));
     }},
    {"MatMul of bytes with scales along the last axis", "Matrix8",
     [](B& b) {
       const int x = b.dequantize(b.input("x", {5, 8}, DataType::Uint8)), w = b.dequantized_weights({8, 8}, 1);
       b.last().attributes["axis"] = ints({-1});
       b.quantize(b.op("MatMul", {x, w}));
     }},
    {"Gemm of bytes", "Matrix8",
     [](B& b) {
       const int x = b.dequantize(b.input("x", {5, 8}, DataType::Uint8));
       b.quantize(b.op("Gemm", {x, b.dequantized_weights({4, 8}, 0)}, {{"transB", ints({1})}}));
     }},
    {"Reshape before the QuantizeLinear", "Reshape8; Matrix8 +bias",
     [](B& b) {
       const int x = b.dequantize(b.input("x", {6, 8}, DataType::Uint8));
       const int y = b.op("Gemm", {x, b.dequantized_weights({8, 4}, 1), b.filled({4}, 1)});
       b.quantize(b.reshape(y, {2, 3, 4}));
     }},
    {"residual before the QuantizeLinear", "Matrix8 +residual Relu",
     [](B& b) {
       const int x = b.input("x", {1, 8, 14, 14}, DataType::Uint8);
       const int y = quantized_conv(b, b.dequantize(x));
       b.quantize(b.op("Relu", {b.op("Add", {y, b.dequantize(x)})}));
     }},
    {"residual block of bytes, one DequantizeLinear for two", "Matrix8 Relu; Matrix8 rounded +residual Relu; Matrix8",
     [](B& b) {
       const int x = quantized_input(b);
       const int inner = b.quantize(b.op("Relu", {quantized_conv(b, x)}));
       const int y = b.quantize(quantized_conv(b, b.dequantize(inner, 0.25f, 5)));
       const int sum = b.quantize(b.op("Relu", {b.op("Add", {b.dequantize(y, 0.25f, 5), x})}));
       b.quantize(quantized_conv(b, b.dequantize(sum, 0.25f, 5)));
     }},
    {"product of bytes in floats", "Matrixf +bias Gelu",
     [](B& b) {
       b.op("Gelu", {b.op("Add", {quantized_product(b, b.input("x", {5, 8}, DataType::Uint8)), b.filled({8}, 1)})});
     }},
    {"product of bytes with a residual of floats", "Matrixf +residual",
     [](B& b) { b.op("Add", {b.input("r", {5, 8}), quantized_product(b, b.input("x", {5, 8}, DataType::Uint8))}); }},
    {"bias behind a quantization", "Matrix8 rounded +bias",
     [](B& b) {
       const int y = rounded_product(b, b.input("x", {5, 8}, DataType::Uint8));
       b.quantize(b.op("Add", {b.filled({8}, 1), y}), 0.125f, 9);
     }},
    {"bias of bytes behind a quantization, Gelu behind one more", "Matrix8 rounded +bias; Activate8 Gelu",
     [](B& b) {
       const int y = rounded_product(b, b.input("x", {5, 8}, DataType::Uint8));
       const int bias = b.dequantize(b.unsigned_bytes({8}, {1, 2, 3, 4, 5, 6, 7, 8}));
       const int sum = b.quantize(b.op("Add", {y, bias}), 0.125f, 9);
       b.quantize(b.op("Gelu", {b.dequantize(sum, 0.125f, 9)}));
     }},
    {"biases on both sides of a quantization, residual and Relu", "Matrixf +bias rounded +bias +residual Relu",
     [](B& b) {
       const int x = b.input("x", {5, 8}, DataType::Uint8);
       const int y = b.op("Add", {quantized_product(b, x), b.filled({8}, 1)});
       const int sum = b.op("Add", {b.dequantize(b.quantize(y), 0.25f, 5), b.filled({8}, 2)});
       b.op("Relu", {b.op("Add", {sum, b.dequantize(x)})});
     }},
    {"feed-forward half of an encoder",
     "Matrix8 rounded +bias Gelu; Matrixf rounded +bias +residual; LayerNorm8; Matrix8",
     [](B& b) {
       const int x = b.input("x", {2, 5, 8}, DataType::Uint8);
       const int y = b.op("Gelu", {b.op("Add", {rounded_product(b, x), b.filled({8}, 1)})});
       const int z = rounded_product(b, b.quantize(y, 0.5f, 3));
       const int sum = b.op("Add", {b.op("Add", {z, b.filled({8}, 1)}), b.dequantize(x)});
       const int normal = b.op("LayerNormalization", {sum, b.filled({8}, 1), b.filled({8}, 0)});
       b.quantize(quantized_product(b, b.quantize(normal, 0.5f, 3)));
     }},
    {"normalisation of bytes, its constants too", "Matrix8; LayerNorm8; Matrix8",
     [](B& b) {
       const int y = b.dequantize(b.quantize(quantized_product(b, b.input("x", {5, 8}, DataType::Uint8))), 0.25f, 5);
       const int scale = b.dequantize(b.unsigned_bytes({8}, {1, 2, 3, 4, 5, 6, 7, 8}));
       const int bias = b.op("DequantizeLinear", {b.integers({8}, {1, 2, 3, 4, 5, 6, 7, 8}), b.filled({8}, 0.5f)},
                             {{"axis", ints({0})}});
       b.quantize(quantized_product(b, b.quantize(b.op("LayerNormalization", {y, scale, bias}), 0.5f, 3)));
     }},
    {"floats that are quantized for one of two readers", "Matrixf; LayerNorm; Activate8; Matrixf +residual",
     [](B& b) {
       const int y = quantized_product(b, b.input("x", {5, 8}, DataType::Uint8));
       const int normal = b.op("LayerNormalization", {y, b.filled({8}, 1), b.filled({8}, 0)});
       b.op("Add", {quantized_product(b, b.quantize(normal, 0.5f, 3)), normal});
     }},
    {"floats behind bytes that are read once more", "Matrix8; Activatef; LayerNorm8; Matrix8",
     [](B& b) {
       const int y = b.dequantize(b.quantize(quantized_product(b, b.input("x", {5, 8}, DataType::Uint8))), 0.25f, 5);
       b.op("Softmax", {y});
       const int normal = b.op("LayerNormalization", {y, b.filled({8}, 1), b.filled({8}, 0)});
       b.quantize(quantized_product(b, b.quantize(normal, 0.5f, 3)));
     }},
    {"floats behind bytes that are an output too", "Matrix8; Activatef; LayerNorm8; Matrix8",
     [](B& b) {
       const int y = b.dequantize(b.quantize(quantized_product(b, b.input("x", {5, 8}, DataType::Uint8))), 0.25f, 5);
       b.output(y);
       const int normal = b.op("LayerNormalization", {y, b.filled({8}, 1), b.filled({8}, 0)});
       b.quantize(quantized_product(b, b.quantize(normal, 0.5f, 3)));
     }},
    {"activation of bytes that stays in floats", "Matrix8; Activatef Sigmoid; LayerNorm8; Matrix8",
     [](B& b) {
       const int y = b.quantize(quantized_product(b, b.input("x", {5, 8}, DataType::Uint8)), 0.5f, 3);
       b.output(y);
       const int bent = b.op("Sigmoid", {b.dequantize(y)});
       const int normal = b.op("LayerNormalization", {bent, b.filled({8}, 1), b.filled({8}, 0)});
       b.quantize(quantized_product(b, b.quantize(normal, 0.5f, 3)));
     }},
    {"two quantized products that meet", "Matrix8; Matrix8 rounded +residual Relu",
     [](B& b) {
       const int y = rounded_product(b, b.input("x", {5, 8}, DataType::Uint8));
       const int z = rounded_product(b, b.input("z", {5, 8}, DataType::Uint8));
       b.quantize(b.op("Relu", {b.op("Add", {y, z})}));
     }},
    {"two quantized products with biases that meet", "Matrixf rounded +bias; Matrix8 rounded +bias +residual",
     [](B& b) {
       const int y = b.op("Add", {rounded_product(b, b.input("x", {5, 8}, DataType::Uint8)), b.filled({8}, 1)});
       const int z = b.op("Add", {rounded_product(b, b.input("z", {5, 8}, DataType::Uint8)), b.filled({8}, 1)});
       b.quantize(b.op("Add", {z, y}));
     }},
    {"sum of bytes and floats", "Matrix8; Matrix8; LayerNormf; Sum8; Matrix8",
     [](B& b) {
       const int x = b.input("x", {5, 8}, DataType::Uint8), y = b.quantize(quantized_product(b, x), 0.5f, 3);
       const int z = b.dequantize(b.quantize(quantized_product(b, y)), 0.25f, 5);
       const int normal = b.op("LayerNormalization", {z, b.filled({8}, 1), b.filled({8}, 0)});
       b.quantize(quantized_product(b, b.quantize(b.op("Add", {b.dequantize(y), normal}), 0.5f, 3)));
     }},
    {"QLinearMatMul with a bias behind it", "Matrix8 rounded +bias",
     [](B& b) {
       const int y = b.op("QLinearMatMul",
                          {b.input("x", {2, 5, 8}, DataType::Int8), b.scalar(0.5f), b.bytes({}, {3}),
                           b.byte_weights({8, 8}), b.scalar(0.5f), b.bytes({}, {0}), b.scalar(1), b.bytes({}, {-7})},
                          {}, DataType::Int8);
       const int real = b.op("DequantizeLinear", {y, b.scalar(1), b.bytes({}, {-7})});
       b.quantize(b.op("Add", {real, b.filled({8}, 1)}));
     }},
    {"Reshape of bytes between two quantizations", "Matrix8; Reshape8; Matrix8",
     [](B& b) {
       const int y = b.quantize(quantized_product(b, b.input("x", {6, 8}, DataType::Uint8)), 0.5f, 3);
       b.quantize(quantized_product(b, b.quantize(b.reshape(b.dequantize(y), {2, 3, 8}), 0.5f, 3)));
     }},
    {"Relu between two quantizations", "Matrix8 Relu",
     [](B& b) {
       const int y = b.dequantize(b.quantize(quantized_conv(b, quantized_input(b))), 0.25f, 5);
       b.quantize(b.op("Relu", {y}), 0.2f, 4);
     }},
    {"Relu between two quantizations, the second without numbers below zero", "Matrix8",
     [](B& b) {
       const int y = b.dequantize(b.quantize(quantized_conv(b, quantized_input(b))), 0.25f, 5);
       b.quantize(b.op("Relu", {y}), 0.2f, 0);
     }},
    {"limits between quantizations, the first of which ends first", "Matrix8 Clip",
     [](B& b) {
       int y = b.dequantize(b.quantize(b.op("Relu", {quantized_conv(b, quantized_input(b))})), 0.25f, 5);
       y = b.dequantize(b.quantize(b.op("Clip", {y, -1, b.scalar(60)}), 0.25f, 7), 0.25f, 7);
       b.quantize(y, 0.5f, 1);
     }},
    {"sums of bytes between two quantizations", "Matrix8; Matrix8; Sum8 Relu; Activate8 Sigmoid",
     [](B& b) {
       const int x = quantized_input(b), y = qlinear_conv(b, b.input("y", {1, 8, 14, 14}, DataType::Uint8), false);
       const int z = b.quantize(quantized_conv(b, x));
       b.output(y);
       b.output(z);
       const int sum = b.quantize(b.op("Add", {b.dequantize(y, 0.25f, 5), b.dequantize(z, 0.25f, 5)}));
       const int relu = b.quantize(b.op("Relu", {b.dequantize(sum, 0.25f, 5)}), 0.2f, 4);
       b.quantize(b.op("Sigmoid", {b.dequantize(relu, 0.2f, 4)}));
     }},
    {"QLinearConv quantized once more", "Matrix8 Relu",
     [](B& b) {
       const int y = qlinear_conv(b, b.input("x", {1, 8, 7, 7}, DataType::Uint8), false);
       b.quantize(b.op("Relu", {b.dequantize(y, 0.25f, 5)}), 0.2f, 4);
     }},
    {"QLinearAdd, global average of bytes", "Matrix8; Sum8; GlobalAveragePool8",
     [](B& b) {
       const int x = b.input("x", {1, 8, 7, 7}, DataType::Uint8), y = qlinear_conv(b, x, false);
       const int scale = b.scalar(0.5f), zero = b.unsigned_bytes({}, {3});
       const int sum =
           b.op("com.microsoft:QLinearAdd",
                {y, b.scalar(0.25f), b.unsigned_bytes({}, {5}), x, scale, zero, scale, zero}, {}, DataType::Uint8);
       b.op("com.microsoft:QLinearGlobalAveragePool", {sum, scale, zero, scale, zero}, {}, DataType::Uint8);
     }},
    {"pools and an activation of bytes spelled out",
     "Matrix8; MaxPool8; AveragePool8; Activate8 HardSwish; GlobalAveragePool8",
     [](B& b) {
       const Attributes window = {{"kernel_shape", ints({2, 2})}};
       int y = b.quantize(quantized_conv(b, quantized_input(b)));
       y = b.quantize(b.op("MaxPool", {b.dequantize(y, 0.25f, 5)}, window));
       y = b.quantize(b.op("AveragePool", {b.dequantize(y, 0.25f, 5)}, window), 0.5f, 3);
       y = b.quantize(b.op("HardSwish", {b.dequantize(y)}));
       b.quantize(b.op("GlobalAveragePool", {b.dequantize(y, 0.25f, 5)}));
     }},
};

void run(const Case& test) {
  B b;
  test.build(b);
  const GraphView& graph = b.finish();
  const std::vector<Claim> claims = claim_half(graph);
  const std::string found = describe(claims);
  if (found != test.expected) {
    std::printf("%s: \"%s\", expected \"%s\"\n", test.name, found.c_str(), test.expected);
    ++failures;
  }
  for (const Claim& claim : claims) {
    const GraphView cut = cut_out(graph, claim.operators);
    if (!is_same(region_of(cut), claim.region)) {
      std::printf("%s: cut out, it becomes \"%s\"\n", test.name, describe(region_of(cut)).c_str());
      ++failures;
    }
  }
}

// What tokens are reshaped to.
void shapes() {
  B b;
  const int y = b.matmul(b.input("x", {-1, 6, 8}), 8, 4);
  const int z = b.reshape(y, {-1, 2, 3, 4});
  b.output(z);
  b.op("LayerNormalization", {b.op("Flatten", {z}, {{"axis", ints({3})}}), b.filled({4}, 1)});
  const std::vector<Claim> claims = claim_half(b.finish());
  CHECK(claims.size() == 1 && describe(claims) == "Reshape; Matrix; Reshape; LayerNorm");
  if (failures > 0) return;
  const Region& region = claims[0].region;
  CHECK((region.layers[0].shape == Shape{-1, 2, 3, 8}));
  CHECK((region.layers[2].shape == Shape{-1, 4}));
  const Value& first = region.values[static_cast<size_t>(region.layers[0].output)];
  CHECK(first.name == "x" && first.channels == 8 && first.spatial == 0);
  CHECK(region.layers[1].inputs[0] == region.layers[0].output && region.inputs == region.layers[0].inputs);
}

}  // namespace

int main() {
  for (const Case& test : cases) run(test);
  shapes();
  return failures != 0;
}
