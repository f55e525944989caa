// Which operators of a graph the provider takes, and as what.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "graph/region.h"
#include "graph/view.h"

namespace sparse {

struct Claim {
  std::vector<int> operators;  // of the view, ascending; convex: no path leaves them and comes back
  Region region;
};

struct ClaimOptions {
  double threshold = 0.0;  // least share of zeros in the weights of a Matrix layer
  // Asked once for each Matrix layer above the threshold: is the sparse kernel worth it here? The shape is that of its
  // input in the model, -1 where not known.
  std::function<bool(const Layer& layer, const Value& input, const std::vector<int64_t>& input_shape)> worth;
};

// Regions of the graph to claim, none of them empty, each with at least one Matrix layer.
std::vector<Claim> claim(const GraphView& graph, const ClaimOptions& options);

// The whole of `graph` (what ONNX Runtime hands back of a claim) as one region.
// Throws std::runtime_error naming the operator if there is one that no layer covers.
Region region_of(const GraphView& graph);

}  // namespace sparse
