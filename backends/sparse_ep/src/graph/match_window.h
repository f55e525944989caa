// Attributes of convolutions and pools as a Window.
#pragma once

#include <optional>

#include "graph/region.h"
#include "graph/view.h"

namespace sparse {

// The window of an operator over `spatial` (1 or 2) dimensions. `kernel`: sizes that the weights have, or null for
// pools, which state them. Nothing if an attribute is not as the standard has it.
std::optional<Window> match_window(const Operator& op, int spatial, const int64_t* kernel);

}  // namespace sparse
