// The operations as one table for kernels/lane_ops.cc.
#include "kernels/lanes/lanes.h"

namespace sparse {
namespace SPARSE_ISA {

extern const LaneOps lane_ops;
const LaneOps lane_ops = {to_blocks,      from_blocks, pack,     max_pool,  average_pool, average_pool_q8,
                          global_average, sum,         sum_q8,   activate,  activate_q8,  layer_norm,
                          finish,         finish_q8,   quantize, dequantize};

}  // namespace SPARSE_ISA
}  // namespace sparse
