// The order of work: depth first where values would not stay in the cache.
#pragma once

#include <vector>

#include "program/plan.h"

namespace sparse {

// Every step's output blocks exactly once, each after what it reads. Consecutive steps whose values are large and whose
// code is small go band by band: a band of what they lead to, and before it what it needs, so that a value is read
// while it is still in the cache (and batches run image by image). Nothing is computed twice.
std::vector<Item> order_of_work(const std::vector<Step>& steps, size_t values);

}  // namespace sparse
