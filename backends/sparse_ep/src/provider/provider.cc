#include "provider/provider.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "graph/claim.h"
#include "ort/graph.h"
#include "program/program.h"
#include "provider/compiled_node.h"
#include "tuning/choice.h"

namespace sparse {

namespace {

ProgramOptions program_options(const Options& options) {
  ProgramOptions program;
  program.jit = options.jit;
  program.isa = options.isa;
  return program;
}

// Regions to take: of layers above the threshold, and with tuning only those that are faster here than dense ones.
std::vector<Claim> claims(const ort::Api& api, const Options& options, const GraphView& graph) {
  ClaimOptions wanted;
  wanted.threshold = options.threshold;
  if (!options.tuning) return claim(graph, wanted);
  Choice choice(api, api.version(), program_options(options), TuningCache::of(options.cache));
  wanted.worth = [&](const Layer& layer, const Value& input, const std::vector<int64_t>& shape) {
    return choice.worth(layer, input, shape);
  };
  std::vector<Claim> found = claim(graph, wanted);
  found.erase(
      std::remove_if(found.begin(), found.end(), [&](const Claim& region) { return !choice.worth(region, graph); }),
      found.end());
  return found;
}

}  // namespace

Provider::Provider(const ort::Api& api, const Options& options)
    : api_(api), options_(options), threads_(options.threads) {
  name = [](const Ep*) { return static_cast<const char*>(kProviderName); };
  get_capability = [](Ep* self, const ort::Graph* graph, ort::GraphSupportInfo* support) {
    Provider& provider = *static_cast<Provider*>(self);
    return ort::guarded(provider.api_, [&] { provider.take(graph, support); });
  };
  compile = [](Ep* self, const ort::Graph** graphs, const ort::Node** fused, size_t count, ort::ComputeInfo** infos,
               ort::Node**) {
    Provider& provider = *static_cast<Provider*>(self);
    return ort::guarded(provider.api_, [&] { provider.compile_all(graphs, fused, count, infos); });
  };
  release_compute_infos = [](Ep*, ort::ComputeInfo** infos, size_t count) {
    for (size_t i = 0; i < count; ++i) delete static_cast<CompiledNode*>(infos[i]);
  };
}

void Provider::take(const ort::Graph* graph, ort::GraphSupportInfo* support) {
  // Before 1.24.4 ONNX Runtime gave what was fused in different graphs, or in two looks at one, the same names, and
  // then refused the model: there, one look at the main graph has to do.
  if (api_.older_than(24, 4) && (taken_ || ort::is_subgraph(api_, graph))) return;
  const ort::ReadGraph read = ort::read_graph(api_, graph);
  for (const Claim& claim : claims(api_, options_, read.view)) {
    std::vector<const ort::Node*> nodes;
    for (const int number : claim.operators) nodes.push_back(read.nodes[static_cast<size_t>(number)]);
    ort::FusionOptions fusion;
    // Programs copy the weights, and no constant is ever the input of a claimed region.
    fusion.drop_constant_initializers = true;
    api_.call_ep(ort::ep_api::kAddNodesToFuse, support, nodes.data(), nodes.size(), &fusion);
    taken_ = true;
  }
}

void Provider::compile_all(const ort::Graph** graphs, const ort::Node** fused, size_t count, ort::ComputeInfo** infos) {
  const ProgramOptions program = program_options(options_);
  // Handed over only when all are there: after an error ONNX Runtime releases none.
  std::vector<std::unique_ptr<CompiledNode>> nodes;
  for (size_t i = 0; i < count; ++i) {
    nodes.push_back(std::make_unique<CompiledNode>(api_, graphs[i], fused[i], program, threads_));
  }
  for (size_t i = 0; i < count; ++i) infos[i] = nodes[i].release();
}

}  // namespace sparse
