#include "ort/graph.h"

#include <map>

namespace sparse::ort {

namespace {

// Lists of ONNX Runtime are read in two calls: how many, then which.
template <class Owner, class Item>
std::vector<Item> list(const Api& api, Slot<Status*(const Owner*, size_t*)> count,
                       Slot<Status*(const Owner*, Item*, size_t)> items, const Owner* owner) {
  size_t size = 0;
  api.call(count, owner, &size);
  std::vector<Item> result(size);
  if (size > 0) api.call(items, owner, result.data(), size);
  return result;
}

template <class Owner>
std::string text(const Api& api, Slot<Status*(const Owner*, const char**)> slot, const Owner* owner) {
  const char* result = nullptr;
  api.call(slot, owner, &result);
  return result == nullptr ? "" : result;
}

template <class Owner>
bool flag(const Api& api, Slot<Status*(const Owner*, bool*)> slot, const Owner* owner) {
  bool result = false;
  api.call(slot, owner, &result);
  return result;
}

void read_type(const Api& api, const ValueInfo* value, Tensor* tensor) {
  const TypeInfo* type = nullptr;
  api.call(api::kValueType, value, &type);
  const TensorInfo* info = nullptr;
  if (type != nullptr) api.call(api::kCastTypeInfoToTensorInfo, type, &info);
  if (info == nullptr) return;
  int element = 0;
  api.call(api::kGetTensorElementType, info, &element);
  tensor->type = static_cast<DataType>(element);
  tensor->has_shape = api.get(api::kTensorHasShape, info);
  if (!tensor->has_shape) return;
  size_t rank = 0;
  api.call(api::kGetDimensionsCount, info, &rank);
  tensor->shape.resize(rank);
  if (rank == 0) return;
  api.call(api::kGetDimensions, info, tensor->shape.data(), rank);
  std::vector<const char*> symbols(rank, nullptr);
  api.call(api::kGetSymbolicDimensions, info, symbols.data(), rank);
  for (const char* symbol : symbols) tensor->symbols.emplace_back(symbol == nullptr ? "" : symbol);
}

// Also of initializers in external files: ONNX Runtime maps these into memory when asked.
void read_constant(const Api& api, const ValueInfo* value, Tensor* tensor) {
  if (!flag(api, api::kValueIsConstant, value)) return;
  const OrtValue* initializer = nullptr;
  api.call(api::kValueInitializer, value, &initializer);
  if (initializer == nullptr) return;
  // The type and shape of the data itself, which is what will be indexed.
  int element = 0;
  const int64_t* shape = nullptr;
  size_t rank = 0;
  api.call(api::kGetTensorTypeAndShape, initializer, &element, &shape, &rank);
  tensor->type = static_cast<DataType>(element);
  tensor->has_shape = true;
  tensor->shape.assign(shape, shape + rank);
  api.call(api::kGetTensorData, initializer, &tensor->constant);
}

template <class Item>
std::vector<Item> read_items(const Api& api, const OperatorAttribute* attribute, AttributeType type) {
  // The first call fails when the attribute is not empty, and says how many bytes there are.
  size_t bytes = 0;
  api.release(api.get(api::kReadAttribute, attribute, type, static_cast<void*>(nullptr), size_t{0}, &bytes));
  std::vector<Item> items(bytes / sizeof(Item));
  if (!items.empty()) {
    api.call(api::kReadAttribute, attribute, type, static_cast<void*>(items.data()), bytes, &bytes);
  }
  return items;
}

Attribute read_attribute(const Api& api, const OperatorAttribute* attribute) {
  int type = 0;
  // Sparse tensors and other kinds that the interface cannot tell are an error: nothing we would need.
  if (Status* failed = api.get(api::kAttributeType, attribute, &type)) {
    api.release(failed);
    return {};
  }
  Attribute result;
  if (type == kInt || type == kInts) {
    result.ints = read_items<int64_t>(api, attribute, static_cast<AttributeType>(type));
  } else if (type == kFloat || type == kFloats) {
    result.floats = read_items<float>(api, attribute, static_cast<AttributeType>(type));
  } else if (type == kString) {
    const std::vector<char> letters = read_items<char>(api, attribute, kString);
    result.text.assign(letters.data(), letters.size());
  }
  return result;
}

class Reader {
 public:
  Reader(const Api& api, const Graph* graph) : api_(api) {
    result_.nodes = list(api, api::kGraphNumNodes, api::kGraphNodes, graph);
    for (const Node* node : result_.nodes) read_operator(node);
  }

  ReadGraph take() { return std::move(result_); }

 private:
  // The number of a value's tensor; -1 for an optional one that is left out.
  int tensor(const ValueInfo* value) {
    if (value == nullptr) return -1;
    const std::string name = text(api_, api::kValueName, value);
    if (name.empty()) return -1;
    std::vector<Tensor>& tensors = result_.view.tensors;
    const auto [place, added] = numbers_.emplace(name, static_cast<int>(tensors.size()));
    if (added) {
      Tensor& fresh = tensors.emplace_back();
      fresh.name = name;
      read_type(api_, value, &fresh);
      read_constant(api_, value, &fresh);
      fresh.graph_output = flag(api_, api::kValueIsGraphOutput, value);
    }
    return place->second;
  }

  void consume(int tensor, int consumer) {
    if (tensor < 0) return;
    std::vector<int>& consumers = result_.view.tensors[static_cast<size_t>(tensor)].consumers;
    if (consumers.empty() || consumers.back() != consumer) consumers.push_back(consumer);
  }

  void read_operator(const Node* node) {
    const int number = static_cast<int>(result_.view.operators.size());
    Operator op;
    op.name = text(api_, api::kNodeName, node);
    op.type = text(api_, api::kNodeOperatorType, node);
    op.domain = text(api_, api::kNodeDomain, node);
    if (op.domain == "ai.onnx") op.domain.clear();
    const std::string provider = text(api_, api::kNodeProvider, node);
    if (!provider.empty()) op.domain = provider;
    api_.call(api::kNodeSinceVersion, node, &op.since_version);
    size_t subgraphs = 0;
    api_.call(api::kNodeNumSubgraphs, node, &subgraphs);
    op.subgraphs = subgraphs > 0;
    for (const OperatorAttribute* attribute : list(api_, api::kNodeNumAttributes, api::kNodeAttributes, node)) {
      op.attributes.emplace(text(api_, api::kAttributeName, attribute), read_attribute(api_, attribute));
    }
    for (const ValueInfo* value : list(api_, api::kNodeNumInputs, api::kNodeInputs, node)) {
      op.inputs.push_back(tensor(value));
      consume(op.inputs.back(), number);
    }
    // What a subgraph captures is consumed by its operator: it has to exist outside of any region.
    for (const ValueInfo* value : list(api_, api::kNodeNumImplicitInputs, api::kNodeImplicitInputs, node)) {
      consume(tensor(value), number);
    }
    for (const ValueInfo* value : list(api_, api::kNodeNumOutputs, api::kNodeOutputs, node)) {
      op.outputs.push_back(tensor(value));
      if (op.outputs.back() >= 0) result_.view.tensors[static_cast<size_t>(op.outputs.back())].producer = number;
    }
    result_.view.operators.push_back(std::move(op));
  }

  const Api& api_;
  ReadGraph result_;
  std::map<std::string, int> numbers_;  // of tensors, by name
};

std::vector<std::string> names(const Api& api, const std::vector<const ValueInfo*>& values) {
  std::vector<std::string> result;
  for (const ValueInfo* value : values) result.push_back(value == nullptr ? "" : text(api, api::kValueName, value));
  return result;
}

}  // namespace

ReadGraph read_graph(const Api& api, const Graph* graph) { return Reader(api, graph).take(); }

bool is_subgraph(const Api& api, const Graph* graph) {
  const Node* parent = nullptr;
  api.call(api::kGraphParentNode, graph, &parent);
  return parent != nullptr;
}

std::vector<std::string> input_names(const Api& api, const Node* node) {
  return names(api, list(api, api::kNodeNumInputs, api::kNodeInputs, node));
}

std::vector<std::string> output_names(const Api& api, const Node* node) {
  return names(api, list(api, api::kNodeNumOutputs, api::kNodeOutputs, node));
}

}  // namespace sparse::ort
