// Builds graphs for tests, describes regions in a line, and cuts claims out as ONNX Runtime does.
#pragma once

#include <algorithm>
#include <deque>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "graph/claim.h"
#include "graph/dimensions.h"

namespace sparse {

using Shape = std::vector<int64_t>;
using Attributes = std::map<std::string, Attribute>;

inline Attribute ints(std::vector<int64_t> values) { return {std::move(values), {}, ""}; }
inline Attribute real(float value) { return {{}, {value}, ""}; }
inline Attribute text(const std::string& value) { return {{}, {}, value}; }

class GraphBuilder {
 public:
  int input(const std::string& name, Shape shape, DataType type = DataType::Float,
            std::vector<std::string> symbols = {}) {
    const int index = tensor(name, type);
    at(index).has_shape = true;
    at(index).shape = std::move(shape);
    at(index).symbols = std::move(symbols);
    return index;
  }

  int floats(Shape shape, const std::vector<float>& values) { return constant(DataType::Float, shape, values); }
  int bytes(Shape shape, const std::vector<int8_t>& values) { return constant(DataType::Int8, shape, values); }
  int unsigned_bytes(Shape shape, const std::vector<uint8_t>& v) { return constant(DataType::Uint8, shape, v); }
  int integers(Shape shape, const std::vector<int32_t>& values) { return constant(DataType::Int32, shape, values); }
  int integers64(const std::vector<int64_t>& values) {
    return constant(DataType::Int64, {static_cast<int64_t>(values.size())}, values);
  }
  int scalar(float value) { return floats({}, {value}); }
  int filled(Shape shape, float value) {
    const size_t count = size(shape);
    return floats(std::move(shape), std::vector<float>(count, value));
  }

  // Three of four elements are zero.
  int weights(Shape shape) {
    std::vector<float> values(size(shape));
    for (size_t i = 0; i < values.size(); i += 4) values[i] = 0.25f * static_cast<float>(i % 7 + 1);
    return floats(std::move(shape), values);
  }
  int dense_weights(Shape shape) {
    const std::vector<float> values(size(shape), 0.5f);
    return floats(std::move(shape), values);
  }
  int byte_weights(Shape shape) {
    std::vector<int8_t> values(size(shape));
    for (size_t i = 0; i < values.size(); i += 4) values[i] = static_cast<int8_t>(i % 7 - 8);
    return bytes(std::move(shape), values);
  }

  // One operator of one output.
  int op(const std::string& type, std::vector<int> inputs, Attributes attributes = {}, DataType makes = DataType::Float,
         int version = 17) {
    Operator made;
    const std::string::size_type dot = type.find(':');
    made.domain = dot == std::string::npos ? "" : type.substr(0, dot);
    made.type = dot == std::string::npos ? type : type.substr(dot + 1);
    made.name = made.type + std::to_string(graph_.operators.size());
    made.since_version = version;
    made.inputs = std::move(inputs);
    made.attributes = std::move(attributes);
    const int output = tensor("t" + std::to_string(graph_.tensors.size()), makes);
    made.outputs = {output};
    graph_.operators.push_back(std::move(made));
    return output;
  }
  Operator& last() { return graph_.operators.back(); }
  Tensor& at(int index) { return graph_.tensors[static_cast<size_t>(index)]; }
  int tensor(const std::string& name, DataType type) {
    Tensor made;
    made.name = name;
    made.type = type;
    graph_.tensors.push_back(std::move(made));
    return static_cast<int>(graph_.tensors.size()) - 1;
  }

  // Frequent ones.
  int conv(int x, int64_t in, int64_t out, int64_t kernel = 1, Attributes attributes = {}) {
    if (kernel > 1 && attributes.count("pads") == 0) {
      attributes["pads"] = ints({kernel / 2, kernel / 2, kernel / 2, kernel / 2});
    }
    return op("Conv", {x, weights({out, in, kernel, kernel})}, attributes);
  }
  int matmul(int x, int64_t in, int64_t out) { return op("MatMul", {x, weights({in, out})}); }
  int reshape(int x, const std::vector<int64_t>& target) { return op("Reshape", {x, integers64(target)}); }
  int dequantize(int x, float scale = 0.5f, uint8_t zero = 3) {
    return op("DequantizeLinear", {x, scalar(scale), unsigned_bytes({}, {zero})});
  }
  int quantize(int x, float scale = 0.25f, uint8_t zero = 5) {
    return op("QuantizeLinear", {x, scalar(scale), unsigned_bytes({}, {zero})}, {}, DataType::Uint8);
  }
  int dequantized_weights(Shape shape, int64_t axis = 0) {
    const size_t count = static_cast<size_t>(shape[static_cast<size_t>(axis)]);
    std::vector<float> scales(count);
    for (size_t i = 0; i < count; ++i) scales[i] = 0.125f * static_cast<float>(i + 1);
    const int64_t outputs = static_cast<int64_t>(count);
    const int data = byte_weights(std::move(shape));
    return op("DequantizeLinear", {data, floats({outputs}, scales), bytes({outputs}, std::vector<int8_t>(count))},
              {{"axis", ints({axis})}});
  }

  void output(int index) { at(index).graph_output = true; }

  // What nobody reads becomes an output of the graph.
  const GraphView& finish() {
    for (Tensor& tensor : graph_.tensors) tensor.consumers.clear();
    for (size_t i = 0; i < graph_.operators.size(); ++i) {
      for (const int read : graph_.operators[i].inputs) {
        if (read < 0) continue;
        std::vector<int>& consumers = at(read).consumers;
        if (consumers.empty() || consumers.back() != static_cast<int>(i)) consumers.push_back(static_cast<int>(i));
      }
      for (const int made : graph_.operators[i].outputs) {
        if (made >= 0) at(made).producer = static_cast<int>(i);
      }
    }
    for (const Operator& op : graph_.operators) {
      if (at(op.outputs[0]).consumers.empty()) output(op.outputs[0]);
    }
    return graph_;
  }

 private:
  static size_t size(const Shape& shape) {
    int64_t count = 1;
    for (const int64_t dimension : shape) count *= dimension;
    return static_cast<size_t>(count);
  }

  template <class Element>
  int constant(DataType type, const Shape& shape, const std::vector<Element>& values) {
    const char* first = reinterpret_cast<const char*>(values.data());
    data_.emplace_back(first, first + values.size() * sizeof(Element));
    const int index = tensor("c" + std::to_string(graph_.tensors.size()), type);
    at(index).has_shape = true;
    at(index).shape = shape;
    at(index).constant = data_.back().data();
    return index;
  }

  GraphView graph_;
  std::deque<std::vector<char>> data_;
};

// The operators of a claim as a graph of their own. Every tensor keeps the shape that is inferred in the whole graph,
// but not which of the sizes that are not known are equal.
inline GraphView cut_out(const GraphView& graph, const std::vector<int>& operators) {
  GraphView cut;
  cut.tensors = graph.tensors;
  const Dimensions shapes(graph, false);
  for (size_t t = 0; t < cut.tensors.size(); ++t) {
    const int rank = shapes.rank(static_cast<int>(t));
    cut.tensors[t].has_shape = rank >= 0;
    cut.tensors[t].symbols.clear();
    cut.tensors[t].shape.clear();
    for (int i = 0; i < rank; ++i) cut.tensors[t].shape.push_back(shapes.size(static_cast<int>(t), i));
  }
  std::vector<int> place(graph.operators.size(), -1);
  for (const int op : operators) {
    place[static_cast<size_t>(op)] = static_cast<int>(cut.operators.size());
    cut.operators.push_back(graph.operators[static_cast<size_t>(op)]);
  }
  for (Tensor& tensor : cut.tensors) {
    tensor.producer = tensor.producer < 0 ? -1 : place[static_cast<size_t>(tensor.producer)];
    std::vector<int> inside;
    for (const int reader : tensor.consumers) {
      const int at = place[static_cast<size_t>(reader)];
      if (at >= 0) inside.push_back(at);
    }
    tensor.graph_output |= inside.size() != tensor.consumers.size();
    tensor.consumers = std::move(inside);
  }
  return cut;
}

inline bool is_same_quantization(const Quantization& a, const Quantization& b) {
  return a.scale == b.scale && a.zero_point == b.zero_point && a.is_signed == b.is_signed;
}

inline bool is_same(const Value& a, const Value& b) {
  return a.name == b.name && a.element == b.element && a.spatial == b.spatial && a.channels == b.channels &&
         is_same_quantization(a.quantization, b.quantization);
}

inline bool is_same(const Window& a, const Window& b) {
  for (int i = 0; i < 2; ++i) {
    if (a.kernel[i] != b.kernel[i] || a.strides[i] != b.strides[i] || a.dilations[i] != b.dilations[i] ||
        a.begin[i] != b.begin[i] || a.end[i] != b.end[i]) {
      return false;
    }
  }
  return a.auto_pad == b.auto_pad && a.ceil_mode == b.ceil_mode && a.count_include_pad == b.count_include_pad;
}

inline bool is_same(const Weights& a, const Weights& b) {
  return a.outputs == b.outputs && a.inputs == b.inputs && a.taps == b.taps && a.groups == b.groups &&
         a.row_begin == b.row_begin && a.columns == b.columns && a.values == b.values && a.quantized == b.quantized &&
         a.scales == b.scales && a.bias == b.bias;
}

inline bool is_same(const Layer& a, const Layer& b) {
  return a.kind == b.kind && a.inputs == b.inputs && a.output == b.output && is_same(a.window, b.window) &&
         is_same(a.weights, b.weights) && a.activation.kind == b.activation.kind &&
         a.activation.alpha == b.activation.alpha && a.activation.beta == b.activation.beta && a.scale == b.scale &&
         a.bias == b.bias && a.epsilon == b.epsilon && a.shape == b.shape &&
         a.rounding.has_value() == b.rounding.has_value() &&
         (!a.rounding || is_same_quantization(*a.rounding, *b.rounding));
}

inline bool is_same(const Region& a, const Region& b) {
  const auto values = [](const Value& x, const Value& y) { return is_same(x, y); };
  const auto layers = [](const Layer& x, const Layer& y) { return is_same(x, y); };
  return std::equal(a.values.begin(), a.values.end(), b.values.begin(), b.values.end(), values) &&
         std::equal(a.layers.begin(), a.layers.end(), b.layers.begin(), b.layers.end(), layers) &&
         a.inputs == b.inputs && a.outputs == b.outputs;
}

// "Matrix8 +bias +residual Relu; MaxPool": layers that make bytes carry an 8, those that make floats of bytes an f.
inline std::string describe(const Region& region) {
  static const char* const kinds[] = {"Matrix",  "MaxPool", "AveragePool", "GlobalAveragePool",
                                      "Reshape", "Sum",     "Activate",    "LayerNorm"};
  static const char* const activations[] = {"",         " Relu", " LeakyRelu", " Clip", " HardSwish", " HardSigmoid",
                                            " Sigmoid", " Gelu", " GeluTanh"};
  std::string line;
  for (const Layer& layer : region.layers) {
    if (!line.empty()) line += "; ";
    line += kinds[layer.kind];
    const auto bytes = [&](int value) { return region.values[static_cast<size_t>(value)].element == Element::Q8; };
    line += bytes(layer.output) ? "8" : bytes(layer.inputs[0]) ? "f" : "";
    if (!layer.weights.bias.empty()) line += " +bias";
    if (layer.rounding) line += " rounded";
    if (layer.rounding && !layer.bias.empty()) line += " +bias";
    if (layer.kind == Layer::Matrix && layer.inputs.size() == 2) line += " +residual";
    line += activations[layer.activation.kind];
  }
  return line;
}

// Claims are parted by " | "; threshold one half.
inline std::string describe(const std::vector<Claim>& claims) {
  std::string line;
  for (const Claim& claim : claims) line += (line.empty() ? "" : " | ") + describe(claim.region);
  return line;
}

inline std::vector<Claim> claim_half(const GraphView& graph) {
  ClaimOptions options;
  options.threshold = 0.5;
  return claim(graph, options);
}

}  // namespace sparse
