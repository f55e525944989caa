#include "provider/compiled_node.h"

#include <algorithm>
#include <string>
#include <utility>

#include "graph/claim.h"
#include "ort/graph.h"

namespace sparse {

namespace {

// By name: the fused node need not list its inputs in the region's order.
std::vector<size_t> places(const Region& region, const std::vector<int>& values,
                           const std::vector<std::string>& names) {
  std::vector<size_t> result;
  for (const int value : values) {
    const std::string& name = region.values[static_cast<size_t>(value)].name;
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) throw std::runtime_error("the fused node has no input or output '" + name + "'");
    result.push_back(static_cast<size_t>(found - names.begin()));
  }
  return result;
}

bool empty(const Program::Shape& shape) { return std::find(shape.begin(), shape.end(), 0) != shape.end(); }

}  // namespace

CompiledNode::CompiledNode(const ort::Api& api, const ort::Graph* graph, const ort::Node* fused,
                           const ProgramOptions& options, ThreadCount& threads)
    : CompiledNode(api, region_of(ort::read_graph(api, graph).view), fused, options, threads) {}

CompiledNode::CompiledNode(const ort::Api& api, Region region, const ort::Node* fused, const ProgramOptions& options,
                           ThreadCount& threads)
    : api_(api),
      threads_(threads),
      inputs_(places(region, region.inputs, ort::input_names(api, fused))),
      outputs_(places(region, region.outputs, ort::output_names(api, fused))),
      program_(std::move(region), options) {
  create_state = [](ComputeInfo*, ort::NodeComputeContext*, void** state) -> ort::Status* {
    *state = nullptr;  // runs share nothing but the node itself
    return nullptr;
  };
  compute = [](ComputeInfo* self, void*, ort::KernelContext* context) {
    const CompiledNode& node = *static_cast<CompiledNode*>(self);
    return ort::guarded(node.api_, [&] { node.run(context); });
  };
  release_state = [](ComputeInfo*, void*) {};
}

void CompiledNode::run(ort::KernelContext* context) const {
  std::vector<Program::Shape> shapes(inputs_.size());
  std::vector<const void*> inputs(inputs_.size());
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const ort::OrtValue* value = nullptr;
    api_.call(ort::api::kKernelInput, context, inputs_[i], &value);
    int element = 0;
    const int64_t* shape = nullptr;
    size_t rank = 0;
    api_.call(ort::api::kGetTensorTypeAndShape, value, &element, &shape, &rank);
    shapes[i].assign(shape, shape + rank);
    api_.call(ort::api::kGetTensorData, value, &inputs[i]);
  }

  const std::vector<Program::Shape> output_shapes = program_.output_shapes(shapes);
  std::vector<void*> outputs(outputs_.size());
  for (size_t i = 0; i < outputs_.size(); ++i) {
    ort::OrtValue* value = nullptr;
    api_.call(ort::api::kKernelOutput, context, outputs_[i], output_shapes[i].data(), output_shapes[i].size(), &value);
    api_.call(ort::api::kGetTensorMutableData, value, &outputs[i]);
  }
  if (std::all_of(output_shapes.begin(), output_shapes.end(), empty)) return;

  SessionThreads threads(api_, context, threads_);
  program_.run(shapes, inputs.data(), outputs.data(), threads);
}

}  // namespace sparse
