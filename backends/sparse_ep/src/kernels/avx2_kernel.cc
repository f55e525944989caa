// The AVX2 kernel, generated at run time: an outer product.
//
// The sums of a group of outputs stay in registers while the rows of a block pass by once. Each nonzero is one
// broadcast of its weight and two multiply-adds, for the two halves of eight lanes that a block has here. Weights are
// read in order, from a stream that begins with the bias.
#include <cstring>
#include <stdexcept>

#include "jit/executable.h"
#include "jit/vex.h"
#include "kernels/sparse_kernel.h"

namespace sparse {
namespace {

using Ymm = VexAssembler::Ymm;
using Memory = VexAssembler::Memory;

constexpr int kHalves = 2;
constexpr int32_t kHalfBytes = kRowBytes / kHalves;
constexpr int64_t kWidest = 6;  // sums take twelve registers
constexpr Ymm kRow[kHalves] = {{12}, {13}};
constexpr Ymm kWeight = {14};
constexpr Ymm kZero = {15};

// What the generated functions are called with, System V: one block's panels, weights, outputs and residual. The last
// two point at the group's first row.
using Function = void (*)(const void* const* taps, const float* weights, std::byte* out, const std::byte* residual);
constexpr auto kTaps = VexAssembler::Rdi;
constexpr auto kWeights = VexAssembler::Rsi;
constexpr auto kOut = VexAssembler::Rdx;
constexpr auto kResidual = VexAssembler::Rcx;
constexpr auto kPanel = VexAssembler::Rax;

// A register that follows ascending offsets, moved on whenever a displacement would need more than one byte.
class Pointer {
 public:
  Pointer(VexAssembler& assembler, VexAssembler::Register base) : assembler_(assembler), base_(base) {}

  // The register was loaded anew: it is at offset 0 again.
  void restart() { position_ = 0; }

  // The operand at `offset`; displacements up to `reach` above its own are short too.
  Memory at(int64_t offset, int64_t reach) {
    if (offset - position_ > kHighest - reach) {
      const int64_t step = offset - position_ - kLowest;
      assembler_.add(base_, static_cast<int32_t>(step));
      position_ += step;
    }
    return Memory{base_, static_cast<int32_t>(offset - position_)};
  }

 private:
  static constexpr int64_t kLowest = -128, kHighest = 127;

  VexAssembler& assembler_;
  VexAssembler::Register base_;
  int64_t position_ = 0;
};

// Weights in the order in which the code reads them.
class WeightStream {
 public:
  WeightStream(VexAssembler& assembler, std::vector<float>& weights)
      : assembler_(assembler), weights_(weights), pointer_(assembler, kWeights) {}

  void broadcast(Ymm to, float weight) {
    assembler_.broadcast(to, pointer_.at(next_ * static_cast<int64_t>(sizeof(float)), 0));
    weights_.push_back(weight);
    ++next_;
  }

 private:
  VexAssembler& assembler_;
  std::vector<float>& weights_;
  Pointer pointer_;
  int64_t next_ = 0;
};

class Avx2Kernel final : public SparseKernel {
 public:
  explicit Avx2Kernel(KernelPlan plan) : SparseKernel(std::move(plan)) {
    VexAssembler assembler;
    for (size_t chunk = 0; chunk < plan_.chunks.size(); ++chunk) {
      for (size_t group = 0; group < plan_.groups.size(); ++group) {
        parts_.push_back(Part{assembler.align(), weights_.size()});
        generate(assembler, chunk, group);
      }
    }
    executable_ = Executable::map(assembler.code());
    plan_.parts = {};  // now in the code and the stream
  }

  bool callable() const { return executable_ != nullptr; }

  int64_t bytes() const override { return static_cast<int64_t>(executable_->size() + weights_.size() * sizeof(float)); }

  void run(const KernelCall& call) const override {
    const Chunk& chunk = plan_.chunks[call.chunk];
    const Group& group = plan_.groups[call.group];
    const Part& part = parts_[call.chunk * plan_.groups.size() + call.group];
    const bool last = call.chunk + 1 == plan_.chunks.size();
    const bool residual = last && plan_.residual;
    const bool activate =
        last && plan_.activation.kind != Activation::None && plan_.activation.kind != Activation::Relu;
    const LaneOps& ops = lane_ops(Isa::Avx2);
    const auto function = reinterpret_cast<Function>(reinterpret_cast<uintptr_t>(executable_->at(part.code)));
    const float* weights = weights_.data() + part.weights;
    for (int64_t i = 0; i < call.count; ++i) {
      std::byte* out = call.out + i * call.out_stride + group.begin * kRowBytes;
      function(call.taps + i * (chunk.tap_end - chunk.tap_begin), weights, out,
               residual ? call.residual + i * call.residual_stride + group.begin * kRowBytes : nullptr);
      if (activate) {
        float* rows = reinterpret_cast<float*>(out);
        ops.activate(rows, group.end - group.begin, plan_.activation, rows);
      }
    }
  }

 private:
  // Where the code and the weights of one (chunk, group) begin.
  struct Part {
    size_t code, weights;
  };

  static Ymm sum(int64_t output, int half) { return Ymm{static_cast<int>(output) * kHalves + half}; }
  static int32_t at(int64_t row, int half) { return static_cast<int32_t>(row * kRowBytes) + half * kHalfBytes; }

  void generate(VexAssembler& assembler, size_t chunk, size_t group) {
    const int64_t outputs = plan_.groups[group].end - plan_.groups[group].begin;
    if (outputs > kWidest) throw std::invalid_argument("an AVX2 kernel has groups of at most 6 outputs");
    WeightStream stream(assembler, weights_);
    for (int64_t output = 0; output < outputs; ++output) {
      for (int half = 0; half < kHalves; ++half) {
        if (chunk != 0) {
          assembler.load(sum(output, half), Memory{kOut, at(output, half)});
        } else if (plan_.bias.empty()) {
          assembler.clear(sum(output, half));
        } else if (half == 0) {
          stream.broadcast(sum(output, half), plan_.bias[static_cast<size_t>(plan_.groups[group].begin + output)]);
        } else {
          assembler.move(sum(output, half), sum(output, 0));
        }
      }
    }
    multiply(assembler, stream, chunk, group);
    if (chunk + 1 == plan_.chunks.size()) finish(assembler, outputs);
    for (int64_t output = 0; output < outputs; ++output) {
      for (int half = 0; half < kHalves; ++half) assembler.store(Memory{kOut, at(output, half)}, sum(output, half));
    }
    assembler.zero_upper();
    assembler.ret();
  }

  void multiply(VexAssembler& assembler, WeightStream& stream, size_t chunk, size_t group) {
    const Chunk& rows = plan_.chunks[chunk];
    const int64_t first_output = plan_.groups[group].begin;
    const std::vector<Nonzero>& part = plan_.part(chunk, group);
    Pointer panel(assembler, kPanel);
    int64_t tap = -1;
    for (size_t begin = 0, end; begin < part.size(); begin = end) {
      const Nonzero& first = part[begin];
      for (end = begin + 1; end < part.size() && part[end].tap == first.tap && part[end].row == first.row;) ++end;
      if (first.tap != tap) {
        tap = first.tap;
        assembler.load(kPanel, Memory{kTaps, static_cast<int32_t>((tap - rows.tap_begin) * sizeof(void*))});
        panel.restart();
      }
      Memory row[kHalves];
      row[0] = panel.at((first.row - rows.row_begin) * kRowBytes, kHalfBytes);
      row[1] = Memory{kPanel, row[0].displacement + kHalfBytes};
      // A row with a single nonzero needs no register of its own.
      const bool keep = end - begin > 1;
      for (int half = 0; keep && half < kHalves; ++half) assembler.load(kRow[half], row[half]);
      for (size_t i = begin; i < end; ++i) {
        float weight;
        std::memcpy(&weight, &part[i].payload, sizeof(weight));
        stream.broadcast(kWeight, weight);
        for (int half = 0; half < kHalves; ++half) {
          const Ymm to = sum(part[i].output - first_output, half);
          if (keep) {
            assembler.multiply_add(to, kWeight, kRow[half]);
          } else {
            assembler.multiply_add(to, kWeight, row[half]);
          }
        }
      }
    }
  }

  // The residual, and of the activations the one that is a single instruction; run() applies the others.
  void finish(VexAssembler& assembler, int64_t outputs) const {
    const bool relu = plan_.activation.kind == Activation::Relu;
    if (relu) assembler.clear(kZero);
    for (int64_t output = 0; output < outputs; ++output) {
      for (int half = 0; half < kHalves; ++half) {
        const Ymm value = sum(output, half);
        if (plan_.residual) assembler.add(value, Memory{kResidual, at(output, half)});
        if (relu) assembler.max_keeping_nan(value, kZero);
      }
    }
  }

  std::vector<Part> parts_;  // [chunk * groups + group]
  std::vector<float> weights_;
  std::unique_ptr<const Executable> executable_;
};

}  // namespace

std::unique_ptr<const SparseKernel> make_avx2_kernel(KernelPlan plan) {
  auto kernel = std::make_unique<Avx2Kernel>(std::move(plan));
  return kernel->callable() ? std::move(kernel) : nullptr;
}

}  // namespace sparse
