// Graphs of ONNX Runtime, read into the provider's own form.
#pragma once

#include <string>
#include <vector>

#include "graph/view.h"
#include "ort/api.h"

namespace sparse::ort {

struct ReadGraph {
  GraphView view;
  std::vector<const Node*> nodes;  // of view.operators
};

// Constants of the view point into `graph`. Operators that another provider has taken already carry that provider's
// name for a domain, so that nothing recognises them.
ReadGraph read_graph(const Api& api, const Graph* graph);

// Is the graph the body of an operator, such as a branch of an If?
bool is_subgraph(const Api& api, const Graph* graph);

std::vector<std::string> input_names(const Api& api, const Node* node);
std::vector<std::string> output_names(const Api& api, const Node* node);

}  // namespace sparse::ort
