// Which instruction sets this processor has, and the operations compiled for each.
#include "kernels/lane_ops.h"

namespace sparse {

namespace generic {
extern const LaneOps lane_ops;
}

#ifdef __x86_64__
namespace avx2 {
extern const LaneOps lane_ops;
}
namespace avx512 {
extern const LaneOps lane_ops;
}
#endif

// __builtin_cpu_supports also asks whether the operating system saves the registers.
Isa best_isa(Isa limit) {
#ifdef __x86_64__
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && limit >= Isa::Avx512) return Isa::Avx512;
  if (avx2 && limit >= Isa::Avx2) return Isa::Avx2;
#endif
  (void)limit;
  return Isa::Generic;
}

const LaneOps& lane_ops(Isa isa) {
  switch (isa) {
#ifdef __x86_64__
    case Isa::Avx512:
      return avx512::lane_ops;
    case Isa::Avx2:
      return avx2::lane_ops;
#endif
    default:
      return generic::lane_ops;
  }
}

}  // namespace sparse
