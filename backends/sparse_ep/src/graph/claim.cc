#include "graph/claim.h"

#include <algorithm>
#include <stdexcept>
#include <unordered_map>

#include "graph/match.h"
#include "graph/partition.h"

namespace sparse {
namespace {

std::string describe(const Operator& op) { return op.type + " '" + op.name + "'"; }

void check_order(const GraphView& graph) {
  for (size_t i = 0; i < graph.operators.size(); ++i) {
    for (const int input : graph.operators[i].inputs) {
      if (input >= 0 && graph.tensors[static_cast<size_t>(input)].producer >= static_cast<int>(i)) {
        throw std::runtime_error(describe(graph.operators[i]) + " stands before an operator that it depends on");
      }
    }
  }
}

// Puts the layers together over values, tensors becoming values in the order in which layers meet them.
Claim make_claim(const GraphView& graph, std::vector<Match>& matches, const std::vector<int>& members) {
  Claim claim;
  Region& region = claim.region;
  std::unordered_map<int, int> value_of;
  std::vector<int> tensors;  // of the values; -1 for those that the model does not have
  const auto value = [&](int tensor, const Value& form) {
    const auto [found, is_new] = value_of.emplace(tensor, static_cast<int>(region.values.size()));
    if (is_new) {
      region.values.push_back(form);
      region.values.back().name = graph.tensors[static_cast<size_t>(tensor)].name;
      tensors.push_back(tensor);
    }
    return found->second;
  };
  for (const int member : members) {
    Match& match = matches[static_cast<size_t>(member)];
    Layer layer = std::move(match.layer);
    for (size_t i = 0; i < layer.inputs.size(); ++i) {
      const size_t before = region.values.size();
      layer.inputs[i] = value(layer.inputs[i], match.reads[i]);
      if (region.values.size() != before) region.inputs.push_back(layer.inputs[i]);
    }
    if (!match.shape.empty()) {  // the same tensor of the model once more, in the shape that the layer takes it
      Layer reshape;
      reshape.kind = Layer::Reshape;
      reshape.shape = match.shape;
      reshape.inputs = {layer.inputs.front()};
      reshape.output = layer.inputs.front() = static_cast<int>(region.values.size());
      region.values.push_back(region.values[static_cast<size_t>(reshape.inputs.front())]);
      tensors.push_back(-1);
      region.layers.push_back(std::move(reshape));
    }
    layer.output = value(layer.output, match.makes);
    region.layers.push_back(std::move(layer));
    claim.operators.insert(claim.operators.end(), match.operators.begin(), match.operators.end());
    claim.operators.insert(claim.operators.end(), match.dequantizers.begin(), match.dequantizers.end());
  }
  std::sort(claim.operators.begin(), claim.operators.end());
  claim.operators.erase(std::unique(claim.operators.begin(), claim.operators.end()), claim.operators.end());

  for (const Layer& layer : region.layers) {
    const int tensor = tensors[static_cast<size_t>(layer.output)];
    if (tensor < 0) continue;
    const Tensor& output = graph.tensors[static_cast<size_t>(tensor)];
    const bool leaves = std::any_of(output.consumers.begin(), output.consumers.end(), [&](int reader) {
      return !std::binary_search(claim.operators.begin(), claim.operators.end(), reader);
    });
    if (leaves || output.graph_output) region.outputs.push_back(layer.output);
  }
  return claim;
}

}  // namespace

std::vector<Claim> claim(const GraphView& graph, const ClaimOptions& options) {
  check_order(graph);
  const Dimensions shapes(graph, false);
  std::vector<Match> matches = match_graph(graph, shapes, options);
  std::vector<Claim> claims;
  for (const std::vector<int>& members : partition(graph, matches)) {
    Claim made = make_claim(graph, matches, members);
    if (!made.region.outputs.empty()) claims.push_back(std::move(made));
  }
  return claims;
}

Region region_of(const GraphView& graph) {
  check_order(graph);
  const Dimensions shapes(graph, true);
  std::vector<Match> matches = match_graph(graph, shapes, ClaimOptions());
  std::vector<bool> covered(graph.operators.size());
  std::vector<int> members;
  std::unordered_map<int, const Value*> forms;
  for (size_t m = 0; m < matches.size(); ++m) {
    const Match& match = matches[m];
    members.push_back(static_cast<int>(m));
    for (const int op : match.operators) covered[static_cast<size_t>(op)] = true;
    for (const int op : match.dequantizers) covered[static_cast<size_t>(op)] = true;
    const std::string last = describe(graph.operators[static_cast<size_t>(match.operators.back())]);
    const auto check = [&](int tensor, const Value& form) {
      if (is_same_form(form, *forms.emplace(tensor, &form).first->second)) return;
      throw std::runtime_error(last + " and another operator read '" + graph.tensors[static_cast<size_t>(tensor)].name +
                               "' in two forms");
    };
    for (size_t i = 0; i < match.reads.size(); ++i) check(match.layer.inputs[i], match.reads[i]);
    check(match.layer.output, match.makes);
  }
  for (size_t op = 0; op < covered.size(); ++op) {
    if (!covered[op]) throw std::runtime_error("no layer covers " + describe(graph.operators[op]));
  }
  return make_claim(graph, matches, members).region;
}

}  // namespace sparse
