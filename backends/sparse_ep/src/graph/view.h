// A graph as the provider reads it: operators, tensors and constants, free of ONNX Runtime's types.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace sparse {

// Element types carry ONNX's numbers (TensorProto.DataType).
enum class DataType : int32_t {
  Undefined = 0,
  Float = 1,
  Uint8 = 2,
  Int8 = 3,
  Int32 = 6,
  Int64 = 7,
  Float16 = 10,
  Double = 11
};

struct Tensor {
  std::string name;
  DataType type = DataType::Undefined;
  bool has_shape = false;
  std::vector<int64_t> shape;        // -1: not known
  std::vector<std::string> symbols;  // names of the dimensions that are not known, "" without one; may be empty
  const void* constant = nullptr;    // data of a constant initializer, valid as long as the view's source
  int producer = -1;                 // operator, or -1
  std::vector<int> consumers;        // operators, each once; also those that read it in a subgraph
  bool graph_output = false;

  int64_t elements() const;  // -1 unless the shape is known and the number fits
};

struct Attribute {
  std::vector<int64_t> ints;  // also a single INT
  std::vector<float> floats;  // also a single FLOAT
  std::string text;
};

struct Operator {
  std::string name, type, domain;  // domain "" for ONNX's own
  int since_version = 0;
  std::vector<int> inputs, outputs;  // tensors; -1: an optional one that is left out
  std::map<std::string, Attribute> attributes;
  bool subgraphs = false;  // holds subgraphs: never claimed

  int64_t integer(const std::string& name, int64_t fallback) const;
  float real(const std::string& name, float fallback) const;
  std::vector<int64_t> integers(const std::string& name) const;
};

// Operators in topological order.
struct GraphView {
  std::vector<Operator> operators;
  std::vector<Tensor> tensors;
};

}  // namespace sparse
