// Layers to regions: connected, and convex: no path leaves a region and comes back to it.
#pragma once

#include <vector>

#include "graph/match.h"

namespace sparse {

// Groups of indices into `matches`, ascending, each with a Matrix layer; time near-linear in the size of the graph.
std::vector<std::vector<int>> partition(const GraphView& graph, const std::vector<Match>& matches);

}  // namespace sparse
