// Where the values of a run lie in its memory.
#pragma once

#include "program/plan.h"

namespace sparse {

// Sets offsets, passing and bytes of a plan whose items are in order. Values that may live at once never overlap.
//
// A value passes if one step alone reads it, block by block as it is made, and each item of its producer is followed by
// the reader's item for the same blocks before the next: then memory for the largest item will do, and stays in the
// cache.
void place_values(Plan* plan);

}  // namespace sparse
