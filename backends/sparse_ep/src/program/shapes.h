// Shapes of the values of a region, as the model has them.
#pragma once

#include <cstdint>
#include <vector>

#include "graph/region.h"

namespace sparse {

// Does the layer slide a window over images?
bool windowed(const Layer& layer);

// Shapes of all values for those of the region's inputs. Throws std::runtime_error where they do not fit.
std::vector<std::vector<int64_t>> value_shapes(const Region& region,
                                               const std::vector<std::vector<int64_t>>& input_shapes);

}  // namespace sparse
