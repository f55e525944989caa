// Which positions lie side by side as lanes: chosen for the values of a region together.
#pragma once

#include <cstdint>
#include <vector>

#include "core/layout.h"
#include "graph/region.h"
#include "kernels/sparse_kernel.h"
#include "program/gather.h"

namespace sparse {

// A layout for each value. Values of one extent have the same lanes, so that what works position by position finds its
// inputs in step; between extents, lanes are what makes packing and unused lanes cost least. Of small layers every one
// of the threads packs all.
std::vector<Layout> choose_layouts(const Region& region, const std::vector<const SparseKernel*>& kernels,
                                   const std::vector<std::vector<int64_t>>& shapes, int threads, GatherCache* gathers);

}  // namespace sparse
