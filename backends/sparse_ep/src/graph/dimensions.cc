#include "graph/dimensions.h"

#include <algorithm>
#include <set>

namespace sparse {
namespace {

// The first output has the shape of the first input.
bool keeps_shape(const std::string& type) {
  static const std::set<std::string> types = {"Abs",
                                              "BatchNormalization",
                                              "Cast",
                                              "Ceil",
                                              "Clip",
                                              "DequantizeLinear",
                                              "Dropout",
                                              "Elu",
                                              "Erf",
                                              "Exp",
                                              "FastGelu",
                                              "Floor",
                                              "Gelu",
                                              "HardSigmoid",
                                              "HardSwish",
                                              "Identity",
                                              "LayerNormalization",
                                              "LeakyRelu",
                                              "Log",
                                              "LogSoftmax",
                                              "Mish",
                                              "Neg",
                                              "QuantizeLinear",
                                              "Relu",
                                              "Round",
                                              "Selu",
                                              "Sigmoid",
                                              "Softmax",
                                              "Softplus",
                                              "Softsign",
                                              "Sqrt",
                                              "Tanh"};
  return types.count(type) != 0;
}

// Sizes beyond this are nothing that a model has; bounding them keeps the arithmetic below exact.
constexpr int64_t kLargest = int64_t{1} << 40;

int64_t attribute_at(const std::vector<int64_t>& values, size_t index, int64_t fallback) {
  return index < values.size() ? std::clamp(values[index], -kLargest, kLargest) : fallback;
}

}  // namespace

Dimensions::Dimensions(const GraphView& graph, bool trusting)
    : graph_(graph), trusting_(trusting), shapes_(graph.tensors.size()) {
  for (size_t t = 0; t < graph.tensors.size(); ++t) {
    if (graph.tensors[t].producer < 0) settle(graph.tensors[t], Shape(), shapes_[t]);
  }
  for (const Operator& op : graph.operators) {
    const Shape derived = derive(op);
    for (size_t i = 0; i < op.outputs.size(); ++i) {
      if (op.outputs[i] < 0) continue;
      const size_t t = static_cast<size_t>(op.outputs[i]);
      settle(graph.tensors[t], i == 0 ? derived : Shape(), shapes_[t]);
    }
  }
}

int Dimensions::rank(int tensor) const {
  const Shape& shape = of(tensor);
  return shape.known ? static_cast<int>(shape.dimensions.size()) : -1;
}

int64_t Dimensions::size(int tensor, int axis) const {
  return std::max<int64_t>(-1, of(tensor).dimensions[static_cast<size_t>(axis)]);
}

bool Dimensions::same(int a, int b) const {
  const Shape &left = of(a), &right = of(b);
  if (!left.known || !right.known || left.dimensions.size() != right.dimensions.size()) return false;
  for (size_t i = 0; i < left.dimensions.size(); ++i) {
    const Dimension x = left.dimensions[i], y = right.dimensions[i];
    const bool open = trusting_ && (x < 0 || y < 0);
    if (x != y && !open) return false;
  }
  return true;
}

bool Dimensions::same_elements(int a, int b) const {
  const Shape &left = of(a), &right = of(b);
  if (!left.known || !right.known) return false;
  const std::optional<Product> x = product(left.dimensions), y = product(right.dimensions);
  if (!x || !y) return false;
  return *x == *y || (trusting_ && !(x->unknown.empty() && y->unknown.empty()));
}

const Dimensions::Shape& Dimensions::of(int tensor) const {
  static const Shape unknown;
  return tensor < 0 ? unknown : shapes_[static_cast<size_t>(tensor)];
}

// Declared sizes come first, then what the operator implies, then declared names.
void Dimensions::settle(const Tensor& tensor, const Shape& derived, Shape& result) {
  if (!tensor.has_shape) {
    result = derived;
    return;
  }
  const bool fits = derived.known && derived.dimensions.size() == tensor.shape.size();
  result.known = true;
  result.dimensions.clear();
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    Dimension dimension;
    if (tensor.shape[i] >= 0) {
      dimension = tensor.shape[i];
    } else if (fits) {
      dimension = derived.dimensions[i];
    } else if (i < tensor.symbols.size() && !tensor.symbols[i].empty()) {
      const auto found = symbols_.try_emplace(tensor.symbols[i], last_ - 1);
      if (found.second) fresh();
      dimension = found.first->second;
    } else {
      dimension = fresh();
    }
    result.dimensions.push_back(dimension);
  }
}

Dimensions::Shape Dimensions::derive(const Operator& op) {
  const bool known = op.domain.empty() || op.domain == "ai.onnx" || op.domain == "com.microsoft";
  if (!known || op.inputs.empty()) return Shape();
  const auto input = [&](size_t i) { return i < op.inputs.size() ? op.inputs[i] : -1; };
  const Shape& first = of(input(0));
  if (!first.known) return Shape();
  if (keeps_shape(op.type)) return first;

  if (op.type == "Reshape") return derive_reshape(op, first);
  if (op.type == "Flatten") return derive_flatten(op, first);
  if (op.type == "Squeeze") return derive_squeeze(op, first);
  if (op.type == "Unsqueeze") return derive_unsqueeze(op, first);

  if (op.type == "Conv") return derive_window(op, input(0), input(1));
  if (op.type == "QLinearConv") return derive_window(op, input(0), input(3));
  if (op.type == "MaxPool" || op.type == "AveragePool") return derive_window(op, input(0), -1);
  if (op.type == "GlobalAveragePool" || op.type == "GlobalMaxPool") {
    Shape result = first;
    for (size_t i = 2; i < result.dimensions.size(); ++i) result.dimensions[i] = 1;
    return result;
  }

  if (op.type == "Add" || op.type == "Sub" || op.type == "Mul" || op.type == "Div") {
    return derive_broadcast(first, of(input(1)));
  }
  if (op.type == "QLinearAdd" || op.type == "QLinearMul") return derive_broadcast(first, of(input(3)));

  if (op.type == "MatMul" || op.type == "QLinearMatMul" || op.type == "Gemm") {
    const Shape& right = of(op.type == "QLinearMatMul" ? input(3) : input(1));
    if (!right.known || right.dimensions.size() != 2 || first.dimensions.size() < 2) return Shape();
    if (op.integer("transA", 0) != 0) return Shape();
    Shape result = first;
    result.dimensions.back() = right.dimensions[op.integer("transB", 0) != 0 ? 0 : 1];
    return result;
  }
  return Shape();
}

Dimensions::Shape Dimensions::derive_window(const Operator& op, int input, int weights) {
  const Shape& from = of(input);
  if (from.dimensions.size() < 3) return Shape();
  const size_t spatial = from.dimensions.size() - 2;
  const bool convolution = op.type == "Conv" || op.type == "QLinearConv";
  const Shape& filter = of(weights);
  if (convolution && (!filter.known || filter.dimensions.size() != from.dimensions.size())) return Shape();

  const std::vector<int64_t> kernel = op.integers("kernel_shape"), strides = op.integers("strides"),
                             dilations = op.integers("dilations"), pads = op.integers("pads");
  const auto text = op.attributes.find("auto_pad");
  const bool same_size = text != op.attributes.end() && text->second.text.rfind("SAME_", 0) == 0;
  const bool valid = text != op.attributes.end() && text->second.text == "VALID";

  Shape result = from;
  if (convolution) result.dimensions[1] = filter.dimensions[0];
  for (size_t i = 0; i < spatial; ++i) {
    const int64_t taps = convolution ? filter.dimensions[i + 2] : attribute_at(kernel, i, 1);
    if (taps < 1 || taps > kLargest >> 20) return Shape();
    const int64_t stride = std::max<int64_t>(1, attribute_at(strides, i, 1));
    const int64_t dilation = std::clamp<int64_t>(attribute_at(dilations, i, 1), 1, kLargest >> 20);
    const int64_t padding = valid ? 0 : attribute_at(pads, i, 0) + attribute_at(pads, i + spatial, 0);
    const int64_t offset = same_size ? -1 : padding - dilation * (taps - 1) - 1;
    // How many windows a ceiling adds depends on the padding; no residual goes around such a pool.
    const bool ceiling = op.integer("ceil_mode", 0) != 0;
    result.dimensions[i + 2] = ceiling ? fresh() : slide(from.dimensions[i + 2], offset, stride);
  }
  return result;
}

// floor((size + offset) / stride) + 1: the number of windows.
Dimensions::Dimension Dimensions::slide(Dimension size, int64_t offset, int64_t stride) {
  if (stride == 1 && offset == -1) return size;
  if (size > kLargest) return fresh();
  if (size >= 0) return size + offset < 0 ? fresh() : (size + offset) / stride + 1;
  const auto found = slid_.try_emplace({size, offset, stride}, last_ - 1);
  if (found.second) fresh();
  return found.first->second;
}

Dimensions::Shape Dimensions::derive_broadcast(const Shape& a, const Shape& b) {
  if (!a.known || !b.known) return Shape();
  const Shape& longer = a.dimensions.size() >= b.dimensions.size() ? a : b;
  const Shape& shorter = a.dimensions.size() >= b.dimensions.size() ? b : a;
  const size_t lead = longer.dimensions.size() - shorter.dimensions.size();
  Shape result = longer;
  for (size_t i = 0; i < shorter.dimensions.size(); ++i) {
    Dimension& dimension = result.dimensions[lead + i];
    const Dimension other = shorter.dimensions[i];
    if (other == 1 || other == dimension) continue;
    if (dimension == 1 || other > 1) {
      dimension = other;  // a known size beyond 1 is the result's, whatever the other one is
    } else if (dimension <= 0) {
      dimension = fresh();
    }
  }
  return result;
}

}  // namespace sparse
