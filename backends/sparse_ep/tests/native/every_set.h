// The checks of a file for every instruction set that the processor has.
#pragma once

#include <initializer_list>

#include "check.h"
#include "kernels/lane_ops.h"

namespace sparse {

// What `main` returns.
inline int with_every_set(std::initializer_list<void (*)(const LaneOps&)> checks) {
  for (const Isa isa : {Isa::Generic, Isa::Avx2, Isa::Avx512}) {
    if (best_isa(isa) != isa) continue;
    for (const auto check : checks) check(lane_ops(isa));
    std::printf("instruction set %d: %d failures\n", static_cast<int>(isa), failures);
  }
  return failures != 0;
}

}  // namespace sparse
