// Every kind of kernel against plain loops in double precision, over layers and plans drawn at random.
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <tuple>

#include "check.h"
#include "core/buffer.h"
#include "jit/executable.h"
#include "kernels/compressed_rows.h"
#include "kernels/sparse_kernel.h"
#include "reference.h"

using namespace sparse;

namespace {

std::mt19937 generator(20240601);

int64_t integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }
double real(double low, double high) { return std::uniform_real_distribution<double>(low, high)(generator); }
template <class T>
T one_of(std::initializer_list<T> choices) {
  return choices.begin()[integer(0, static_cast<int64_t>(choices.size()) - 1)];
}

int64_t rows_of(const Weights& weights, Element element) {
  return element == Element::F32 ? weights.inputs : (weights.inputs + 3) / 4;
}

Weights random_weights(Element element, int64_t outputs, int64_t inputs, int64_t taps, double density) {
  Weights weights;
  weights.outputs = outputs;
  weights.inputs = inputs;
  weights.taps = taps;
  weights.row_begin = {0};
  for (int64_t output = 0; output < outputs; ++output) {
    for (int64_t column = 0; column < inputs * taps; ++column) {
      if (real(0, 1) >= density) continue;
      weights.columns.push_back(static_cast<int32_t>(column));
      if (element == Element::F32) {
        weights.values.push_back(static_cast<float>(real(-1, 1)));
      } else {
        // Often the largest there are: sums of a few such products need more than 16 bits.
        weights.quantized.push_back(static_cast<int8_t>(one_of<int64_t>({-128, 127, integer(-128, 127)})));
      }
    }
    weights.row_begin.push_back(static_cast<int64_t>(weights.columns.size()));
  }
  if (element == Element::F32 && integer(0, 3) > 0) {
    for (int64_t output = 0; output < outputs; ++output) weights.bias.push_back(static_cast<float>(real(-1, 1)));
  }
  return weights;
}

// The order that plans promise.
bool in_order(const Nonzero& a, const Nonzero& b) {
  return std::tie(a.tap, a.row, a.output) < std::tie(b.tap, b.row, b.output);
}

// Splits [0, count) at random into at least one range of at most `longest`.
std::vector<std::pair<int64_t, int64_t>> random_ranges(int64_t count, int64_t longest) {
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (int64_t begin = 0; begin < count; begin = ranges.back().second) {
    ranges.push_back({begin, std::min(count, begin + integer(1, longest))});
  }
  return ranges;
}

// A plan with other chunks and groups than plan_kernel would choose.
KernelPlan random_plan(const Weights& weights, Element element, const Activation& activation, bool residual,
                       int64_t widest) {
  const KernelPlan usual = plan_kernel(weights, element, activation, residual, widest);
  KernelPlan plan = usual;
  plan.groups.clear();
  for (const auto& [begin, end] : random_ranges(weights.outputs, widest)) plan.groups.push_back({begin, end});
  plan.chunks.clear();
  if (integer(0, 1) == 0) {
    for (const auto& [begin, end] : random_ranges(plan.taps, plan.taps)) {
      plan.chunks.push_back({begin, end, 0, plan.rows});
    }
  } else {
    for (int64_t tap = 0; tap < plan.taps; ++tap) {
      for (const auto& [begin, end] : random_ranges(plan.rows, plan.rows)) {
        plan.chunks.push_back({tap, tap + 1, begin, end});
      }
    }
  }
  plan.parts.clear();
  for (const Chunk& chunk : plan.chunks) {
    for (const Group& group : plan.groups) {
      std::vector<Nonzero> part;
      for (const std::vector<Nonzero>& from : usual.parts) {
        for (const Nonzero& nonzero : from) {
          if (nonzero.tap >= chunk.tap_begin && nonzero.tap < chunk.tap_end && nonzero.row >= chunk.row_begin &&
              nonzero.row < chunk.row_end && nonzero.output >= group.begin && nonzero.output < group.end) {
            part.push_back(nonzero);
          }
        }
      }
      std::sort(part.begin(), part.end(), in_order);
      plan.parts.push_back(std::move(part));
    }
  }
  return plan;
}

// What a plan promises to kernels, and that it holds exactly the layer's weights.
void check_plan(const KernelPlan& plan, const Weights& weights, Element element, int64_t widest) {
  CHECK(plan.outputs == weights.outputs && plan.taps == weights.taps && plan.rows == rows_of(weights, element));
  CHECK(plan.bias.empty() || static_cast<int64_t>(plan.bias.size()) == plan.outputs);
  CHECK(plan.parts.size() == plan.chunks.size() * plan.groups.size());
  int64_t next = 0;
  for (const Group& group : plan.groups) {
    CHECK(group.begin == next && group.end > group.begin && group.end - group.begin <= widest);
    next = group.end;
  }
  CHECK(next == plan.outputs);
  CHECK(!plan.chunks.empty());
  std::vector<int> covered(static_cast<size_t>(plan.taps * plan.rows));
  for (const Chunk& chunk : plan.chunks) {
    CHECK(chunk.tap_end - chunk.tap_begin == 1 || (chunk.row_begin == 0 && chunk.row_end == plan.rows));
    for (int64_t tap = chunk.tap_begin; tap < chunk.tap_end; ++tap) {
      for (int64_t row = chunk.row_begin; row < chunk.row_end; ++row)
        ++covered[static_cast<size_t>(tap * plan.rows + row)];
    }
  }
  CHECK(std::all_of(covered.begin(), covered.end(), [](int times) { return times == 1; }));

  std::vector<double> dense(static_cast<size_t>(weights.outputs * weights.taps * weights.inputs));
  for (size_t chunk = 0; chunk < plan.chunks.size(); ++chunk) {
    for (size_t group = 0; group < plan.groups.size(); ++group) {
      const Nonzero* before = nullptr;
      for (const Nonzero& nonzero : plan.part(chunk, group)) {
        CHECK(nonzero.tap >= plan.chunks[chunk].tap_begin && nonzero.tap < plan.chunks[chunk].tap_end);
        CHECK(nonzero.row >= plan.chunks[chunk].row_begin && nonzero.row < plan.chunks[chunk].row_end);
        CHECK(nonzero.output >= plan.groups[group].begin && nonzero.output < plan.groups[group].end);
        CHECK(!before || in_order(*before, nonzero));
        before = &nonzero;
        const int64_t channels = element == Element::F32 ? 1 : 4;
        for (int64_t byte = 0; byte < channels; ++byte) {
          const int64_t channel = nonzero.row * channels + byte;
          float value;
          std::memcpy(&value, &nonzero.payload, sizeof value);
          if (element == Element::Q8) value = static_cast<int8_t>(nonzero.payload >> (8 * byte));
          CHECK(channel < weights.inputs || value == 0);
          if (channel >= weights.inputs) continue;
          dense[static_cast<size_t>((nonzero.output * weights.taps + nonzero.tap) * weights.inputs + channel)] += value;
        }
      }
    }
  }
  for (int64_t output = 0; output < weights.outputs; ++output) {
    for (int64_t i = weights.row_begin[static_cast<size_t>(output)];
         i < weights.row_begin[static_cast<size_t>(output) + 1]; ++i) {
      const auto index = static_cast<size_t>(i);
      const double value = element == Element::F32 ? weights.values[index] : weights.quantized[index];
      dense[static_cast<size_t>(output * weights.taps * weights.inputs + weights.columns[index])] -= value;
    }
  }
  CHECK(std::all_of(dense.begin(), dense.end(), [](double rest) { return rest == 0; }));
}

// Blocks to multiply, and room for the products. Panels are shared between blocks and taps, and blocks lie further
// apart than their rows need: what lies between them must stay as it is.
class Problem {
 public:
  Problem(const Weights& weights, Element element, bool residual)
      : weights_(weights),
        element_(element),
        rows_(rows_of(weights, element)),
        blocks_(integer(1, 11)),
        out_stride_((weights.outputs + integer(1, 3)) * kRowBytes),
        residual_stride_((weights.outputs + integer(0, 2)) * kRowBytes),
        panels_(static_cast<size_t>(kPanels * rows_ * kRowBytes)),
        residual_(residual ? static_cast<size_t>(blocks_ * residual_stride_) : 0),
        out_(static_cast<size_t>(blocks_ * out_stride_)) {
    for (int64_t i = 0; i < blocks_ * weights.taps; ++i) panel_of_.push_back(integer(0, kPanels - 1));
    for (size_t i = 0; i < panels_.size(); ++i)
      panels_.data()[i] = std::byte(one_of<int64_t>({0, 255, integer(0, 255)}));
    if (element == Element::F32) fill(panels_);
    fill(residual_);
  }

  void set(int64_t row, int64_t lane, float value) {
    for (int64_t panel = 0; panel < kPanels; ++panel) {
      reinterpret_cast<float*>(panels_.data())[(panel * rows_ + row) * kLanes + lane] = value;
    }
  }

  void run(const SparseKernel& kernel) {
    const KernelPlan& plan = kernel.plan();
    std::memset(out_.data(), kUntouched, out_.size());
    for (size_t index = 0; index < plan.chunks.size(); ++index) {
      const Chunk& chunk = plan.chunks[index];
      for (const auto& [first, last] : random_ranges(blocks_, blocks_)) {
        std::vector<const void*> taps;
        for (int64_t block = first; block < last; ++block) {
          for (int64_t tap = chunk.tap_begin; tap < chunk.tap_end; ++tap) {
            taps.push_back(panel(block, tap) + chunk.row_begin * kRowBytes);
          }
        }
        for (size_t group = 0; group < plan.groups.size(); ++group) {
          KernelCall call;
          call.chunk = index;
          call.group = group;
          call.count = last - first;
          call.taps = taps.data();
          call.out = out_.data() + first * out_stride_;
          call.out_stride = out_stride_;
          if (plan.residual) call.residual = residual_.data() + first * residual_stride_;
          call.residual_stride = residual_stride_;
          kernel.run(call);
        }
      }
    }
  }

  // Sums are exact in Q8; in F32 they are as near as rounding lets them be.
  void check(const Activation& activation) const {
    for (int64_t block = 0; block < blocks_; ++block) {
      const std::byte* out = out_.data() + block * out_stride_;
      for (int64_t output = 0; output < weights_.outputs; ++output) {
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          double magnitude;
          const double expected = reference::activate(activation, sum(block, output, lane, &magnitude));
          if (element_ == Element::Q8) {
            CHECK(reinterpret_cast<const int32_t*>(out)[output * kLanes + lane] == static_cast<int32_t>(expected));
          } else {
            const double actual = reinterpret_cast<const float*>(out)[output * kLanes + lane];
            if (std::isnan(magnitude)) {
              CHECK(std::isnan(actual));
            } else {
              CHECK_NEAR(actual, expected, 2e-6 * magnitude + 2e-6);
            }
          }
        }
      }
      CHECK(std::all_of(out + weights_.outputs * kRowBytes, out + out_stride_,
                        [](std::byte byte) { return byte == std::byte{kUntouched}; }));
    }
  }

 private:
  static constexpr int64_t kPanels = 7;
  static constexpr unsigned char kUntouched = 0xA5;

  static void fill(const Buffer& floats) {
    for (size_t i = 0; i < floats.size() / sizeof(float); ++i) {
      reinterpret_cast<float*>(floats.data())[i] = static_cast<float>(real(-2, 2));
    }
  }

  const std::byte* panel(int64_t block, int64_t tap) const {
    return panels_.data() + panel_of_[static_cast<size_t>(block * weights_.taps + tap)] * rows_ * kRowBytes;
  }

  double input(int64_t block, int64_t column, int64_t lane) const {
    const std::byte* from = panel(block, column / weights_.inputs);
    const int64_t channel = column % weights_.inputs;
    if (element_ == Element::F32) return reinterpret_cast<const float*>(from)[channel * kLanes + lane];
    return std::to_integer<int>(from[channel / 4 * kRowBytes + lane * 4 + channel % 4]);
  }

  // Also the sum of magnitudes: what rounding errors are relative to.
  double sum(int64_t block, int64_t output, int64_t lane, double* magnitude) const {
    double total = weights_.bias.empty() ? 0 : weights_.bias[static_cast<size_t>(output)];
    if (residual_.size() > 0) {
      const std::byte* rows = residual_.data() + block * residual_stride_;
      total += reinterpret_cast<const float*>(rows)[output * kLanes + lane];
    }
    *magnitude = std::fabs(total);
    for (int64_t i = weights_.row_begin[static_cast<size_t>(output)];
         i < weights_.row_begin[static_cast<size_t>(output) + 1]; ++i) {
      const auto index = static_cast<size_t>(i);
      const double weight = element_ == Element::F32 ? weights_.values[index] : weights_.quantized[index];
      const double product = weight * input(block, weights_.columns[index], lane);
      total += product;
      *magnitude += std::fabs(product);
    }
    return total;
  }

  const Weights& weights_;
  Element element_;
  int64_t rows_, blocks_, out_stride_, residual_stride_;
  Buffer panels_, residual_, out_;
  std::vector<int64_t> panel_of_;
};

struct Kind {
  std::string name;
  Isa isa;
  int64_t widest;
  std::unique_ptr<const SparseKernel> (*make)(KernelPlan plan);
};

std::vector<Kind> kinds(Element element) {
  std::vector<Kind> all = {
      {"compiled generic", Isa::Generic, 40,
       [](KernelPlan p) { return make_compiled_kernel(std::move(p), Isa::Generic); }},
      {"compiled AVX2", Isa::Avx2, 40, [](KernelPlan p) { return make_compiled_kernel(std::move(p), Isa::Avx2); }},
      {"compiled AVX-512", Isa::Avx512, 40,
       [](KernelPlan p) { return make_compiled_kernel(std::move(p), Isa::Avx512); }},
      {"AVX-512", Isa::Avx512, 30, make_avx512_kernel}};
  if (element == Element::F32) all.push_back({"AVX2", Isa::Avx2, 6, make_avx2_kernel});
  all.erase(std::remove_if(all.begin(), all.end(), [](const Kind& kind) { return best_isa(kind.isa) != kind.isa; }),
            all.end());
  return all;
}

// How many failures there were before, to name the kernel that has new ones.
void report(const std::string& name, int failures_before) {
  if (failures > failures_before) std::printf("  in the kernel %s\n", name.c_str());
}

Activation random_activation(int kind) {
  Activation activation;
  activation.kind = static_cast<Activation::Kind>(kind);
  if (activation.kind == Activation::LeakyRelu) activation.alpha = 0.1f;
  if (activation.kind == Activation::HardSigmoid) activation.alpha = 0.2f, activation.beta = 0.5f;
  if (activation.kind == Activation::Clip) activation.alpha = -0.5f, activation.beta = 1.5f;
  return activation;
}

void test_random_layers() {
  for (int round = 0; round < 250; ++round) {
    const Element element = one_of({Element::F32, Element::Q8});
    const int64_t taps = one_of<int64_t>({1, 1, 9, 25});
    const Weights weights = random_weights(element, integer(1, 70), integer(1, taps == 1 ? 200 : 40), taps,
                                           one_of({0.0, 0.01, 0.1, 0.5, 1.0}));
    const bool residual = element == Element::F32 && integer(0, 1) == 1;
    const Activation activation = element == Element::F32 ? random_activation(round % 9) : Activation{};
    Problem problem(weights, element, residual);
    for (const Kind& kind : kinds(element)) {
      const int before = failures;
      if (element == Element::Q8) {  // whole rows of the result
        const KernelPlan plan = plan_kernel(weights, element, activation, residual, kind.widest);
        for (const Group& group : plan.groups) CHECK(group.begin % 4 == 0);
      }
      for (auto make_plan : {plan_kernel, random_plan}) {
        KernelPlan plan = make_plan(weights, element, activation, residual, kind.widest);
        check_plan(plan, weights, element, kind.widest);
        const auto kernel = kind.make(std::move(plan));
        if (!kernel) {
          std::printf("skipped: kernel %s\n", kind.name.c_str());
          continue;
        }
        CHECK(kernel->bytes() >= weights.nonzeros());
        problem.run(*kernel);
        problem.check(activation);
      }
      report(kind.name, before);
    }
    for (bool jit : {false, true}) {
      const auto kernel = make_kernel(weights, element, activation, residual, best_isa(), jit);
      problem.run(*kernel);
      problem.check(activation);
    }
  }
}

// Long chunks of several taps, so that every pointer of generated code moves on many times and starts again.
void test_long_chunks() {
  for (double density : {0.02, 1.0}) {
    const Weights weights = random_weights(Element::F32, 6, 1000, 3, density);
    for (const Kind& kind : kinds(Element::F32)) {
      KernelPlan plan = plan_kernel(weights, Element::F32, {}, false, kind.widest);
      std::vector<Nonzero> all;
      for (const std::vector<Nonzero>& part : plan.parts) all.insert(all.end(), part.begin(), part.end());
      std::sort(all.begin(), all.end(), in_order);
      plan.chunks = {{0, 3, 0, 1000}};
      plan.groups = {{0, 6}};
      plan.parts = {all};
      const int before = failures;
      Problem problem(weights, Element::F32, false);
      const auto kernel = kind.make(std::move(plan));
      problem.run(*kernel);
      problem.check({});
      report(kind.name, before);
    }
  }
}

// Taps of few rows without zeros, or with a few.
void test_dense_taps() {
  for (const Element element : {Element::F32, Element::Q8}) {
    for (const double density : {1.0, 0.97}) {
      for (const int64_t inputs : {1, 3, 8, 9, 30}) {
        const bool residual = element == Element::F32 && inputs % 2 == 1;
        const Weights weights = random_weights(element, 64, inputs, 49, density);
        const Activation activation =
            element == Element::F32 ? random_activation(static_cast<int>(inputs % 9)) : Activation();
        Problem problem(weights, element, residual);
        for (const Kind& kind : kinds(element)) {
          const int before = failures;
          const auto kernel = kind.make(plan_kernel(weights, element, activation, residual, kind.widest));
          if (!kernel) continue;
          problem.run(*kernel);
          problem.check(activation);
          report(kind.name, before);
        }
      }
    }
  }
}

// What is not a number reaches the outputs whose weights meet it, through every activation, and no others.
void test_not_a_number() {
  for (int activation_kind = 0; activation_kind < 9; ++activation_kind) {
    const Activation activation = random_activation(activation_kind);
    const bool few_rows = activation_kind % 2 == 1;  // nearly a loop
    const Weights weights =
        few_rows ? random_weights(Element::F32, 13, 6, 9, 0.9) : random_weights(Element::F32, 13, 20, 1, 0.3);
    Problem problem(weights, Element::F32, false);
    problem.set(4, 3, std::numeric_limits<float>::quiet_NaN());
    problem.set(few_rows ? 5 : 11, 15, std::numeric_limits<float>::quiet_NaN());
    for (const Kind& kind : kinds(Element::F32)) {
      const int before = failures;
      const auto kernel = kind.make(plan_kernel(weights, Element::F32, activation, false, kind.widest));
      problem.run(*kernel);
      problem.check(activation);
      report(kind.name, before);
    }
  }
}

// Quads whose products would not add up in 16 bits are stored as two; the others as they are.
void test_wide_quads() {
  const auto bytes = [](std::vector<int8_t> quad) {
    Weights weights;
    weights.outputs = 1;
    weights.inputs = 4;
    weights.row_begin = {0, 4};
    weights.columns = {0, 1, 2, 3};
    weights.quantized = std::move(quad);
    return make_compiled_kernel(plan_kernel(weights, Element::Q8, {}, false, 8), Isa::Generic)->bytes();
  };
  const int64_t one = bytes({127, 1, -128, 127}), payload = static_cast<int64_t>(sizeof(int32_t) + sizeof(uint32_t));
  CHECK(bytes({1, 1, 1, 1}) == one && bytes({-100, -28, 127, 0}) == one);
  CHECK(bytes({127, 2, 1, 1}) == one + payload && bytes({1, 1, -1, -128}) == one + payload);
}

// The compiled loop without VNNI, which a processor with VNNI never chooses: the largest sums that 16 bits hold.
void test_narrow_dot() {
  alignas(64) uint8_t panel[2 * kRowBytes];
  alignas(64) int32_t out[kLanes];
  for (int64_t i = 0; i < 2 * kRowBytes; ++i) panel[i] = static_cast<uint8_t>(i % 4 == 2 ? i : 255);
  const int8_t quads[2][4] = {{127, 1, -128, 0}, {-100, -28, 127, -128}};
  uint32_t words[2];
  std::memcpy(words, quads, sizeof words);
  const int32_t runs_of[] = {1}, offsets[] = {0, kRowBytes};
  const RowRun runs[] = {{0, 2}};
  CompressedRows rows;
  rows.outputs = rows.taps = 1;
  rows.runs_of = runs_of;
  rows.runs = runs;
  rows.offsets = offsets;
  rows.weights = words;
  const void* taps[] = {panel};
  CompressedCall call;
  call.count = 1;
  call.taps = taps;
  call.out = reinterpret_cast<std::byte*>(out);
  call.first = true;

  std::vector<const CompressedOps*> all = {&generic::compressed_ops};
#ifdef __x86_64__
  if (best_isa() >= Isa::Avx2) all.push_back(&avx2::compressed_ops);
  if (best_isa() >= Isa::Avx512) all.push_back(&avx512::compressed_ops);
#endif
  for (const CompressedOps* ops : all) {
    ops->dot(rows, call);
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      int expected = 0;
      for (int64_t i = 0; i < 8; ++i) expected += quads[i / 4][i % 4] * panel[i / 4 * kRowBytes + lane * 4 + i % 4];
      CHECK(out[lane] == expected);
    }
  }
}

// Where the system lets no memory become executable, kernels compiled ahead of time step in.
void test_refused_memory() {
  constexpr int kSetMdwe = 65, kRefuseExecGain = 1;  // <linux/prctl.h> of Linux 6.3
  constexpr int kNotHere = 77;
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    if (prctl(kSetMdwe, kRefuseExecGain, 0, 0, 0) != 0) _exit(kNotHere);
    failures = 0;
    CHECK(Executable::map({0xC3}) == nullptr);
    for (Element element : {Element::F32, Element::Q8}) {
      const Weights weights = random_weights(element, 13, 40, 9, 0.2);
      CHECK(make_avx512_kernel(plan_kernel(weights, element, {}, false, 30)) == nullptr);
      CHECK(make_avx2_kernel(plan_kernel(weights, element, {}, false, 6)) == nullptr);
      for (Isa isa : {Isa::Generic, Isa::Avx2, Isa::Avx512}) {
        const auto kernel = make_kernel(weights, element, {}, false, best_isa(isa), true);
        CHECK(kernel != nullptr);
        if (!kernel) continue;
        Problem problem(weights, element, false);
        problem.run(*kernel);
        problem.check({});
      }
    }
    std::fflush(stdout);
    _exit(failures == 0 ? 0 : 1);
  }
  int status = -1;
  CHECK(child > 0 && waitpid(child, &status, 0) == child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kNotHere) {
    std::printf("skipped: refused memory (no PR_SET_MDWE on this system)\n");
  } else {
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
}

}  // namespace

int main() {
  test_random_layers();
  test_long_chunks();
  test_dense_taps();
  test_not_a_number();
  test_wide_quads();
  test_narrow_dot();
  test_refused_memory();
  return failures == 0 ? 0 : 1;
}
