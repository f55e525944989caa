#include "tuning/dense_model.h"

#include <algorithm>
#include <cmath>

#include "graph/view.h"
#include "tuning/protobuf.h"

namespace sparse {
namespace {

using protobuf::Message;

// Field numbers of onnx.proto.
namespace model {
constexpr int ir_version = 1, graph = 7, opset = 8;
}
namespace opset {
constexpr int domain = 1, version = 2;
}
namespace graph {
constexpr int node = 1, name = 2, initializer = 5, input = 11, output = 12;
}
namespace node {
constexpr int input = 1, output = 2, op_type = 4, attribute = 5;
}
namespace attribute {
constexpr int name = 1, integer = 3, text = 4, integers = 8, type = 20;
}
namespace tensor {
constexpr int dims = 1, data_type = 2, name = 8, raw = 9;
}
namespace value {
constexpr int name = 1, type = 2;
}
namespace type {
constexpr int tensor = 1, element = 1, shape = 2, dimension = 1, size = 1;
}
constexpr int kInteger = 2, kText = 3, kIntegers = 7;
constexpr int kIrVersion = 8, kOpset = 17;

template <class T>
Message constant(const std::string& name, DataType data_type, const std::vector<int64_t>& dims,
                 const std::vector<T>& data) {
  Message message;
  for (const int64_t size : dims) message.integer(tensor::dims, size);
  message.integer(tensor::data_type, static_cast<int64_t>(data_type)).text(tensor::name, name);
  message.text(tensor::raw, std::string(reinterpret_cast<const char*>(data.data()), data.size() * sizeof(T)));
  return message;
}

Message port(const std::string& name, DataType data_type, const std::vector<int64_t>* shape) {
  Message typed;
  typed.integer(type::element, static_cast<int64_t>(data_type));
  if (shape) {
    Message dimensions;
    for (const int64_t size : *shape) dimensions.message(type::dimension, Message().integer(type::size, size));
    typed.message(type::shape, dimensions);
  }
  return Message().text(value::name, name).message(value::type, Message().message(type::tensor, typed));
}

Message integers(const std::string& name, const std::vector<int64_t>& values) {
  Message message;
  message.text(attribute::name, name).integer(attribute::type, kIntegers);
  for (const int64_t value : values) message.integer(attribute::integers, value);
  return message;
}

// Weights as the operator has them: [outputs][inputs of a group][taps], or [inputs][outputs] of a matrix.
template <class T>
std::vector<T> expand(const Weights& weights, const std::vector<T>& values, bool tokens) {
  const int64_t outputs_of_group = weights.outputs / weights.groups, inputs_of_group = weights.inputs / weights.groups;
  std::vector<T> dense(static_cast<size_t>(weights.outputs * inputs_of_group * weights.taps), T(0));
  for (int64_t output = 0; output < weights.outputs; ++output)
    for (int64_t i = weights.row_begin[static_cast<size_t>(output)];
         i < weights.row_begin[static_cast<size_t>(output) + 1]; ++i) {
      const int64_t column = weights.columns[static_cast<size_t>(i)];
      const int64_t tap = column / weights.inputs,
                    channel = column % weights.inputs - output / outputs_of_group * inputs_of_group;
      const int64_t at =
          tokens ? channel * weights.outputs + output : (output * inputs_of_group + channel) * weights.taps + tap;
      dense[static_cast<size_t>(at)] = values[static_cast<size_t>(i)];
    }
  return dense;
}

class Writer {
 public:
  Writer(const Layer& layer, const Value& input, const std::vector<int64_t>& shape)
      : layer_(layer), weights_(layer.weights), input_(input), tokens_(input.spatial == 0), shape_(shape) {}

  std::string write() {
    const bool q8 = input_.element == Element::Q8;
    const DataType data = !q8 ? DataType::Float : input_.quantization.is_signed ? DataType::Int8 : DataType::Uint8;
    operator_.text(node::input, "x");
    q8 ? quantized(data) : real();
    operator_.text(node::output, "y");
    if (!tokens_) window();
    graph_.message(graph::node, operator_).text(graph::name, "layer");
    graph_.message(graph::input, port("x", data, &shape_)).message(graph::output, port("y", data, nullptr));
    Message opset_message;
    opset_message.text(opset::domain, "").integer(opset::version, kOpset);
    return Message()
        .integer(model::ir_version, kIrVersion)
        .message(model::graph, graph_)
        .message(model::opset, opset_message)
        .bytes();
  }

 private:
  std::vector<int64_t> weight_dims() const {
    if (tokens_) return {weights_.inputs, weights_.outputs};
    std::vector<int64_t> dims{weights_.outputs, weights_.inputs / weights_.groups};
    if (input_.spatial == 2) dims.push_back(layer_.window.kernel[0]);
    dims.push_back(layer_.window.kernel[1]);
    return dims;
  }

  template <class T>
  void add_input(const std::string& name, DataType data_type, const std::vector<int64_t>& dims,
                 const std::vector<T>& data) {
    operator_.text(node::input, name);
    graph_.message(graph::initializer, constant(name, data_type, dims, data));
  }

  void real() {
    operator_.text(node::op_type, tokens_ ? "MatMul" : "Conv");
    add_input("w", DataType::Float, weight_dims(), expand(weights_, weights_.values, tokens_));
    if (!tokens_ && !weights_.bias.empty()) add_input("b", DataType::Float, {weights_.outputs}, weights_.bias);
  }

  void quantized(DataType data) {
    const auto zero_point =
        static_cast<int8_t>(input_.quantization.zero_point - (input_.quantization.is_signed ? 128 : 0));
    const auto scale_and_zero = [&](const std::string& name, float scale) {
      add_input(name + "_scale", DataType::Float, {}, std::vector<float>{scale});
      add_input(name + "_zero", data, {}, std::vector<int8_t>{zero_point});
    };
    operator_.text(node::op_type, tokens_ ? "QLinearMatMul" : "QLinearConv");
    scale_and_zero("x", input_.quantization.scale);
    add_input("w", DataType::Int8, weight_dims(), expand(weights_, weights_.quantized, tokens_));
    add_input("w_scale", DataType::Float, {weights_.outputs}, weights_.scales);
    add_input("w_zero", DataType::Int8, {weights_.outputs},
              std::vector<int8_t>(static_cast<size_t>(weights_.outputs), 0));
    scale_and_zero("y", input_.quantization.scale);
    if (!tokens_ && !weights_.bias.empty())
      add_input("b", DataType::Int32, {weights_.outputs},
                std::vector<int32_t>(static_cast<size_t>(weights_.outputs), 1));
  }

  void window() {
    const Window& window = layer_.window;
    const auto both = [&](const int64_t (&values)[2]) {
      return input_.spatial == 2 ? std::vector<int64_t>{values[0], values[1]} : std::vector<int64_t>{values[1]};
    };
    operator_.message(node::attribute, integers("kernel_shape", both(window.kernel)));
    operator_.message(node::attribute, integers("strides", both(window.strides)));
    operator_.message(node::attribute, integers("dilations", both(window.dilations)));
    Message group;
    group.text(attribute::name, "group")
        .integer(attribute::type, kInteger)
        .integer(attribute::integer, weights_.groups);
    operator_.message(node::attribute, group);
    if (window.auto_pad == AutoPad::NotSet) {
      std::vector<int64_t> pads = both(window.begin);
      const std::vector<int64_t> end = both(window.end);
      pads.insert(pads.end(), end.begin(), end.end());
      operator_.message(node::attribute, integers("pads", pads));
      return;
    }
    const char* name = window.auto_pad == AutoPad::SameUpper   ? "SAME_UPPER"
                       : window.auto_pad == AutoPad::SameLower ? "SAME_LOWER"
                                                               : "VALID";
    Message automatic;
    automatic.text(attribute::name, "auto_pad").integer(attribute::type, kText).text(attribute::text, name);
    operator_.message(node::attribute, automatic);
  }

  const Layer& layer_;
  const Weights& weights_;
  const Value& input_;
  const bool tokens_;
  const std::vector<int64_t>& shape_;
  Message operator_, graph_;
};

}  // namespace

std::string dense_model(const Layer& layer, const Value& input, const std::vector<int64_t>& shape) {
  return Writer(layer, input, shape).write();
}

}  // namespace sparse
