// The kernel for where no code may be generated: compressed rows, and loops over them compiled ahead of time.
#include <algorithm>

#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "kernels/compressed_rows.h"
#include "kernels/sparse_kernel.h"

namespace sparse {
namespace {

// VNNI for registers of the width that `isa` has.
bool has_vnni(Isa isa) {
#ifdef __x86_64__
  unsigned a, b, c, d;
  if (isa == Isa::Avx512) return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & 1u << 11);
  if (isa == Isa::Avx2) return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
#endif
  (void)isa;
  return false;
}

using Function = void (*)(const CompressedRows& rows, const CompressedCall& call);

const CompressedOps& compressed_ops(Isa isa) {
  switch (isa) {
#ifdef __x86_64__
    case Isa::Avx512:
      return avx512::compressed_ops;
    case Isa::Avx2:
      return avx2::compressed_ops;
#endif
    default:
      return generic::compressed_ops;
  }
}

// Owns what CompressedRows points to.
struct Part {
  std::vector<int32_t> runs_of, offsets;
  std::vector<RowRun> runs;
  std::vector<uint32_t> weights;

  int64_t bytes() const {
    return static_cast<int64_t>(runs_of.size() * sizeof(int32_t) + runs.size() * sizeof(RowRun) +
                                offsets.size() * sizeof(int32_t) + weights.size() * sizeof(uint32_t));
  }
};

// Whether the products of each pair of neighbours with unsigned bytes add up within 16 bits.
bool narrow(uint32_t quad) {
  for (int pair = 0; pair < 32; pair += 16) {
    const int a = static_cast<int8_t>(quad >> pair), b = static_cast<int8_t>(quad >> (pair + 8));
    if (255 * (a + b) > INT16_MAX || 255 * (a + b) < INT16_MIN) return false;
  }
  return true;
}

// Quads that are not narrow as two that are: their even and their odd channels.
std::vector<Nonzero> narrowed(const std::vector<Nonzero>& nonzeros) {
  std::vector<Nonzero> result;
  for (Nonzero nonzero : nonzeros) {
    const uint32_t quad = nonzero.payload;
    if (!narrow(quad)) {
      nonzero.payload = quad & 0x00FF00FFu;
      result.push_back(nonzero);
      nonzero.payload = quad & 0xFF00FF00u;
    }
    result.push_back(nonzero);
  }
  return result;
}

Part compress(std::vector<Nonzero> nonzeros, const Chunk& chunk, const Group& group) {
  std::stable_sort(nonzeros.begin(), nonzeros.end(),
                   [](const Nonzero& a, const Nonzero& b) { return a.output < b.output; });
  Part part;
  part.runs_of.assign(static_cast<size_t>(group.end - group.begin), 0);
  int32_t output = -1, tap = -1;
  for (const Nonzero& nonzero : nonzeros) {
    if (nonzero.output != output || nonzero.tap != tap) {
      output = nonzero.output;
      tap = nonzero.tap;
      ++part.runs_of[static_cast<size_t>(output - group.begin)];
      part.runs.push_back({tap - static_cast<int32_t>(chunk.tap_begin), 0});
    }
    ++part.runs.back().nonzeros;
    part.offsets.push_back(static_cast<int32_t>((nonzero.row - chunk.row_begin) * kRowBytes));
    part.weights.push_back(nonzero.payload);
  }
  return part;
}

class CompiledKernel final : public SparseKernel {
 public:
  CompiledKernel(KernelPlan plan, Isa isa) : SparseKernel(std::move(plan)), ops_(lane_ops(isa)) {
    const CompressedOps& ops = compressed_ops(isa);
    const bool vnni = ops.dot_vnni && has_vnni(isa);
    function_ = plan_.element == Element::F32 ? ops.multiply : vnni ? ops.dot_vnni : ops.dot;
    for (size_t chunk = 0; chunk < plan_.chunks.size(); ++chunk) {
      for (size_t group = 0; group < plan_.groups.size(); ++group) {
        std::vector<Nonzero> nonzeros = plan_.part(chunk, group);
        if (function_ == ops.dot) nonzeros = narrowed(nonzeros);
        parts_.push_back(compress(std::move(nonzeros), plan_.chunks[chunk], plan_.groups[group]));
      }
    }
    plan_.parts = {};  // now in parts_
  }

  int64_t bytes() const override {
    int64_t total = 0;
    for (const Part& part : parts_) total += part.bytes();
    return total;
  }

  void run(const KernelCall& call) const override {
    const Chunk& chunk = plan_.chunks[call.chunk];
    const Group& group = plan_.groups[call.group];
    const Part& part = parts_[call.chunk * plan_.groups.size() + call.group];

    CompressedRows rows;
    rows.outputs = group.end - group.begin;
    rows.taps = chunk.tap_end - chunk.tap_begin;
    rows.runs_of = part.runs_of.data();
    rows.runs = part.runs.data();
    rows.offsets = part.offsets.data();
    rows.weights = part.weights.data();

    CompressedCall compressed;
    compressed.count = call.count;
    compressed.taps = call.taps;
    compressed.out = call.out + group.begin * kRowBytes;
    compressed.out_stride = call.out_stride;
    compressed.first = call.chunk == 0;
    compressed.bias = plan_.bias.empty() ? nullptr : plan_.bias.data() + group.begin;
    function_(rows, compressed);
    if (plan_.element == Element::F32 && call.chunk + 1 == plan_.chunks.size()) finish(call, group);
  }

 private:
  // Residual and activation.
  void finish(const KernelCall& call, const Group& group) const {
    if (!plan_.residual && plan_.activation.kind == Activation::None) return;
    const int64_t rows = group.end - group.begin;
    for (int64_t block = 0; block < call.count; ++block) {
      float* out = reinterpret_cast<float*>(call.out + block * call.out_stride + group.begin * kRowBytes);
      if (plan_.residual) {
        const std::byte* residual = call.residual + block * call.residual_stride + group.begin * kRowBytes;
        ops_.sum(out, reinterpret_cast<const float*>(residual), rows, plan_.activation, out);
      } else {
        ops_.activate(out, rows, plan_.activation, out);
      }
    }
  }

  Function function_ = nullptr;
  const LaneOps& ops_;
  std::vector<Part> parts_;  // [chunk * groups + group]
};

}  // namespace

std::unique_ptr<const SparseKernel> make_compiled_kernel(KernelPlan plan, Isa isa) {
  return std::make_unique<CompiledKernel>(std::move(plan), isa);
}

}  // namespace sparse
