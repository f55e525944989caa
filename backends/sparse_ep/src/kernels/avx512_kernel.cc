// Outer products in generated AVX-512 code.
//
// A function computes one chunk of one group for one block: the group's outputs stay in up to 30 registers, each row of
// a panel is loaded once, and every nonzero is one instruction that broadcasts its weight from a stream. The stream is
// read in order, so its pointer moves once in 256 weights. Where no weight is zero and a tap has few rows, as in the
// first layer over an image, the function is a loop over the taps instead.
#include <cpuid.h>

#include <algorithm>

#include "jit/evex.h"
#include "jit/executable.h"
#include "kernels/sparse_kernel.h"

namespace sparse {
namespace {

constexpr int kX = 31;     // the row of the panel
constexpr int kZero = 30;  // zeros, once the last row is done

// `ahead`: memory to bring into the cache meanwhile.
using Function = void (*)(const void* const* taps, const void* stream, std::byte* out, const std::byte* residual,
                          const uint8_t* ahead);

// A function, and behind it its weights.
struct Part {
  size_t code = 0, stream = 0, end = 0;  // offsets
  int64_t ahead = 0;                     // bytes that one call brings into the cache
};

// Processors hardly prefetch instructions, so code that comes from beyond the second-level cache would stop at every
// line: every call fetches a share of the next part. In how many calls depends on how often a part runs before the next
// one does; what is large is mostly small in positions.
constexpr int64_t kLargeNonzeros = 100000, kCallsOfLarge = 4, kCallsOfSmall = 12;

// Loops have at most so many rows. Of quads some may be zero; floats would turn infinity times zero into NaN.
constexpr int64_t kRowsOfLoop = 8;
constexpr double kDenseQuads = 0.8;

// Follows a pointer through a sequence of offsets, moving it so that displacements stay within a signed byte of units.
class Cursor {
 public:
  Cursor(EvexAssembler& code, Reg reg, int32_t unit) : code_(code), reg_(reg), unit_(unit) {}
  void restart() { base_ = 0; }
  int32_t displacement(int64_t offset) {
    if (offset - base_ > 127 * unit_) {
      const int64_t step = offset - base_ + 128 * unit_;  // the rest of the window lies ahead
      code_.add(reg_, static_cast<int32_t>(step));
      base_ += step;
    }
    return static_cast<int32_t>(offset - base_);
  }

 private:
  EvexAssembler& code_;
  Reg reg_;
  int64_t unit_, base_ = 0;
};

class Generator {
 public:
  explicit Generator(const KernelPlan& plan) : plan_(plan) {
    size_t nonzeros = 0;
    for (const std::vector<Nonzero>& part : plan.parts) nonzeros += part.size();
    calls_ = nonzeros > kLargeNonzeros ? kCallsOfLarge : kCallsOfSmall;
    for (size_t chunk = 0; chunk < plan.chunks.size(); ++chunk)
      for (size_t group = 0; group < plan.groups.size(); ++group) function(chunk, group);
  }

  EvexAssembler code_;
  std::vector<Part> parts_;

 private:
  void function(size_t chunk_index, size_t group_index) {
    Part part;
    part.code = code_.align();
    stream_.clear();
    const Chunk& chunk = plan_.chunks[chunk_index];
    const Group& group = plan_.groups[group_index];
    const int count = static_cast<int>(group.end - group.begin);
    const bool last = chunk_index + 1 == plan_.chunks.size();
    Cursor weights(code_, Reg::rsi, 4);
    begin(chunk_index == 0, group, weights);
    const std::vector<Nonzero>& nonzeros = plan_.part(chunk_index, group_index);
    if (is_dense(nonzeros, chunk, group)) {
      accumulate_all(nonzeros, chunk, group, weights);
    } else {
      const size_t next = chunk_index * plan_.groups.size() + group_index + 1;
      const size_t lines = next < plan_.parts.size() ? lines_of(plan_.parts[next].size()) : 0;
      part.ahead = static_cast<int64_t>(lines * 64);
      accumulate(nonzeros, chunk, group, weights, lines);
    }
    if (last && plan_.residual)
      for (int i = 0; i < count; ++i) code_.add(i, Reg::rcx, i * static_cast<int32_t>(kRowBytes));
    if (last && plan_.activation.kind == Activation::Relu) {
      code_.clear(kZero);
      for (int i = 0; i < count; ++i) code_.max_keeping_nan(i, kZero);
    }
    for (int i = 0; i < count; ++i) code_.store(i, Reg::rdx, i * static_cast<int32_t>(kRowBytes));
    code_.leave();
    part.stream = code_.align();
    code_.data(stream_);
    part.end = code_.align();
    parts_.push_back(part);
  }

  // Lines that one call fetches of a part with so many nonzeros, each about 13 bytes with its share of rows.
  size_t lines_of(size_t nonzeros) const {
    return (13 * nonzeros / 64 + static_cast<size_t>(calls_) - 1) / static_cast<size_t>(calls_);
  }

  void begin(bool first, const Group& group, Cursor& weights) {
    for (int64_t output = group.begin; output < group.end; ++output) {
      const int accumulator = static_cast<int>(output - group.begin);
      if (!first) {
        code_.load(accumulator, Reg::rdx, accumulator * static_cast<int32_t>(kRowBytes));
      } else if (plan_.bias.empty()) {
        code_.clear(accumulator);
      } else {
        uint32_t word;
        static_assert(sizeof word == sizeof(float), "a weight is one word");
        __builtin_memcpy(&word, &plan_.bias[static_cast<size_t>(output)], sizeof word);
        code_.broadcast(accumulator, Reg::rsi, weights.displacement(push(word)));
      }
    }
  }

  void accumulate(const std::vector<Nonzero>& nonzeros, const Chunk& chunk, const Group& group, Cursor& weights,
                  size_t lines) {
    Cursor rows(code_, Reg::r9, static_cast<int32_t>(kRowBytes));
    int32_t tap = -1, row = -1;
    size_t fetched = 0;
    for (size_t i = 0; i < nonzeros.size(); ++i) {
      const Nonzero& nonzero = nonzeros[i];
      if (nonzero.tap != tap) {
        tap = nonzero.tap;
        row = -1;
        code_.move(Reg::r9, Reg::rdi, static_cast<int32_t>((tap - chunk.tap_begin) * 8));
        rows.restart();
      }
      if (nonzero.row != row) {
        row = nonzero.row;
        code_.load(kX, Reg::r9, rows.displacement((row - chunk.row_begin) * kRowBytes));
      }
      for (; fetched < lines * (i + 1) / nonzeros.size(); ++fetched)
        code_.prefetch(Reg::r8, static_cast<int32_t>(fetched * 64));
      multiply(static_cast<int>(nonzero.output - group.begin), weights.displacement(push(nonzero.payload)));
    }
  }

  bool is_dense(const std::vector<Nonzero>& nonzeros, const Chunk& chunk, const Group& group) const {
    const int64_t rows = chunk.row_end - chunk.row_begin;
    const int64_t all = (chunk.tap_end - chunk.tap_begin) * rows * (group.end - group.begin);
    const double least = plan_.element == Element::F32 ? 1.0 : kDenseQuads;
    return rows <= kRowsOfLoop && static_cast<double>(nonzeros.size()) >= least * static_cast<double>(all);
  }

  void accumulate_all(const std::vector<Nonzero>& nonzeros, const Chunk& chunk, const Group& group, Cursor& weights) {
    const int64_t rows = chunk.row_end - chunk.row_begin, outputs = group.end - group.begin;
    const size_t begin = stream_.size();
    stream_.resize(begin + static_cast<size_t>((chunk.tap_end - chunk.tap_begin) * rows * outputs));
    for (const Nonzero& nonzero : nonzeros) {
      const int64_t row = (nonzero.tap - chunk.tap_begin) * rows + nonzero.row - chunk.row_begin;
      stream_[begin + static_cast<size_t>(row * outputs + nonzero.output - group.begin)] = nonzero.payload;
    }
    code_.add(Reg::rsi, weights.displacement(static_cast<int64_t>(begin) * 4));
    code_.set(Reg::r10, static_cast<int32_t>(chunk.tap_end - chunk.tap_begin));
    const size_t again = code_.size();
    code_.move(Reg::r9, Reg::rdi, 0);
    code_.add(Reg::rdi, sizeof(void*));
    for (int64_t row = 0; row < rows; ++row) {
      code_.load(kX, Reg::r9, static_cast<int32_t>(row * kRowBytes));
      for (int64_t output = 0; output < outputs; ++output)
        multiply(static_cast<int>(output), static_cast<int32_t>((row * outputs + output) * 4));
    }
    code_.add(Reg::rsi, static_cast<int32_t>(rows * outputs * 4));
    code_.repeat(Reg::r10, again);
  }

  // Adds the row times the weight at the stream's pointer + displacement.
  void multiply(int accumulator, int32_t displacement) {
    if (plan_.element == Element::F32) {
      code_.multiply_add(accumulator, kX, Reg::rsi, displacement);
    } else {
      code_.dot_add(accumulator, kX, Reg::rsi, displacement);
    }
  }

  // Byte offset of the word in the stream.
  int64_t push(uint32_t word) {
    stream_.push_back(word);
    return static_cast<int64_t>(stream_.size() - 1) * 4;
  }

  const KernelPlan& plan_;
  int64_t calls_ = 1;
  std::vector<uint32_t> stream_;  // of the part at hand
};

bool has_vnni() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & (1u << 11));
}

// What the generated code applies by itself.
bool inline_activation(const Activation& activation) {
  return activation.kind == Activation::None || activation.kind == Activation::Relu;
}

void fetch_for_writing(const std::byte* data, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(data + i, 1, 2);
}

void fetch_for_reading(const std::byte* data, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(data + i, 0, 3);
}

class Avx512Kernel final : public SparseKernel {
 public:
  Avx512Kernel(KernelPlan plan, std::vector<Part> parts, std::unique_ptr<const Executable> code)
      : SparseKernel(std::move(plan)), parts_(std::move(parts)), code_(std::move(code)) {
    plan_.parts.clear();  // now in the code
    plan_.parts.shrink_to_fit();
  }

  void run(const KernelCall& call) const override {
    const size_t index = call.chunk * plan_.groups.size() + call.group;
    const Part& part = parts_[index];
    const Part& next = parts_[std::min(index + 1, parts_.size() - 1)];
    const Chunk& chunk = plan_.chunks[call.chunk];
    const Group& group = plan_.groups[call.group];
    const auto function = reinterpret_cast<Function>(reinterpret_cast<uintptr_t>(code_->at(part.code)));
    const bool activate = call.chunk + 1 == plan_.chunks.size() && !inline_activation(plan_.activation);
    const int64_t offset = group.begin * kRowBytes, bytes = (group.end - group.begin) * kRowBytes;
    for (int64_t block = 0; block < call.count; ++block) {
      std::byte* out = call.out + block * call.out_stride + offset;
      const std::byte* residual = call.residual ? call.residual + block * call.residual_stride + offset : nullptr;
      if (block + 1 < call.count) {  // short runs of rows with long gaps: too short for the processor to see a stream
        fetch_for_writing(out + call.out_stride, bytes);
        if (residual) fetch_for_reading(residual + call.residual_stride, bytes);
      }
      const size_t ahead = next.code + static_cast<size_t>(block * part.ahead);
      function(call.taps + block * (chunk.tap_end - chunk.tap_begin), code_->at(part.stream), out, residual,
               code_->at(ahead < next.end ? ahead : part.code));
      if (activate) {
        float* rows = reinterpret_cast<float*>(out);
        lane_ops(Isa::Avx512).activate(rows, group.end - group.begin, plan_.activation, rows);
      }
    }
  }

  int64_t bytes() const override { return static_cast<int64_t>(code_->size()); }

  void warm() const override {
    fetch_for_reading(reinterpret_cast<const std::byte*>(code_->at(0)), static_cast<int64_t>(parts_[0].end));
  }

 private:
  std::vector<Part> parts_;
  std::unique_ptr<const Executable> code_;
};

}  // namespace

std::unique_ptr<const SparseKernel> make_avx512_kernel(KernelPlan plan) {
  if (plan.element == Element::Q8 && !has_vnni()) return nullptr;
  Generator generator(plan);
  auto code = Executable::map(generator.code_.code());
  if (!code) return nullptr;
  return std::make_unique<Avx512Kernel>(std::move(plan), std::move(generator.parts_), std::move(code));
}

}  // namespace sparse
