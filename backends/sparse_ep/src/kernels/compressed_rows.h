// Sparse rows times panels, in code compiled ahead of time: once for each instruction set, from the same sources.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparse {

// Consecutive nonzeros of one output that lie in the panel of one tap.
struct RowRun {
  int32_t tap, nonzeros;
};

// Of one (chunk, group): nonzeros by (output, tap, row).
struct CompressedRows {
  int64_t outputs = 0, taps = 0;     // of the group, of the chunk
  const int32_t* runs_of = nullptr;  // how many runs each output has
  const RowRun* runs = nullptr;
  const int32_t* offsets = nullptr;   // of each nonzero: bytes from the start of the panel
  const uint32_t* weights = nullptr;  // of each nonzero: a float, or four int8
};

// The blocks to work on. Pointers are those of the group's first row.
struct CompressedCall {
  int64_t count = 0;
  const void* const* taps = nullptr;  // [count][taps]
  std::byte* out = nullptr;
  int64_t out_stride = 0;
  bool first = false;           // start from the bias, rather than from `out`
  const float* bias = nullptr;  // for each output, or null: zeros
};

// out = start + rows * panels. `multiply`: floats. The others: int32 sums of four unsigned channels times four int8,
// without a bias. `dot` may add up the products of channels 0 and 1, and those of 2 and 3, in 16 bits: weights are such
// that they fit whatever the channels hold. `dot_vnni` asks for VNNI or AVX-VNNI; null where there is none.
struct CompressedOps {
  void (*multiply)(const CompressedRows& rows, const CompressedCall& call);
  void (*dot)(const CompressedRows& rows, const CompressedCall& call);
  void (*dot_vnni)(const CompressedRows& rows, const CompressedCall& call);
};

namespace generic {
extern const CompressedOps compressed_ops;
}
namespace avx2 {
extern const CompressedOps compressed_ops;
}
namespace avx512 {
extern const CompressedOps compressed_ops;
}

}  // namespace sparse
