#include "program/program.h"

#include <algorithm>
#include <chrono>
#include <list>
#include <mutex>
#include <stdexcept>

#include "core/buffer.h"
#include "program/plan.h"
#include "program/shapes.h"
#include "program/team.h"
#include "program/work.h"

namespace sparse {
namespace {

constexpr size_t kPlansKept = 8;  // of shapes seen last

bool is_pool(const Layer& layer) {
  return layer.kind == Layer::MaxPool || layer.kind == Layer::AveragePool || layer.kind == Layer::GlobalAveragePool;
}

}  // namespace

struct Program::Compiled {
  struct KnownPlan {
    std::vector<Shape> shapes;
    int threads;
    std::shared_ptr<const Plan> plan;
  };

  Region region;
  const LaneOps* ops = nullptr;
  std::vector<std::unique_ptr<const SparseKernel>> kernels;

  mutable std::mutex plans_mutex;
  mutable std::list<KnownPlan> plans;  // latest first
  mutable BufferPool buffers;

  std::shared_ptr<const Plan> plan(const std::vector<Shape>& shapes, int threads) const {
    {
      const std::lock_guard<std::mutex> lock(plans_mutex);
      for (auto known = plans.begin(); known != plans.end(); ++known) {
        if (known->shapes != shapes || known->threads != threads) continue;
        plans.splice(plans.begin(), plans, known);
        return plans.front().plan;
      }
    }
    std::vector<const SparseKernel*> borrowed;
    for (const auto& kernel : kernels) borrowed.push_back(kernel.get());
    std::shared_ptr<const Plan> made = make_plan(region, borrowed, shapes, threads);
    const std::lock_guard<std::mutex> lock(plans_mutex);
    plans.push_front({shapes, threads, made});
    if (plans.size() > kPlansKept) plans.pop_back();
    return made;
  }

  // What one thread does in a run; `timing` only where there are no others.
  void take_part(const Plan& plan, const Memory& memory, const void* const* inputs, void* const* outputs, int threads,
                 size_t thread, Team* team, Timing* timing) const {
    using Clock = std::chrono::steady_clock;
    auto before = Clock::now();
    for (size_t i = 0; i < plan.items.size(); ++i) {
      const Item& item = plan.items[i];
      const Step& step = plan.steps[item.step];
      if (i + 1 < plan.items.size())
        if (const SparseKernel* next = plan.steps[plan.items[i + 1].step].kernel) next->warm();
      if (step.kind == Step::Import) {
        team->share(i, thread, ConversionWork(step, item, memory, *ops, inputs[step.port], nullptr, threads));
      } else if (step.kind == Step::Export) {
        team->share(i, thread, ConversionWork(step, item, memory, *ops, nullptr, outputs[step.port], threads));
      } else if (step.layer->kind == Layer::Matrix) {
        team->share(i, thread, MatrixWork(step, item, memory, *ops, threads));
      } else if (is_pool(*step.layer)) {
        team->share(i, thread, PoolWork(step, item, memory, *ops));
      } else {
        team->share(i, thread, PointwiseWork(step, item, memory, *ops));
      }
      if (!timing) continue;
      const auto after = Clock::now();
      (step.kind == Step::Compute ? timing->layers : timing->conversion) +=
          std::chrono::duration<double>(after - before).count();
      before = after;
    }
  }

  void run(const std::vector<Shape>& shapes, const void* const* inputs, void* const* outputs, Parallel& parallel,
           Timing* timing) const {
    const int threads = parallel.threads();
    const auto plan = this->plan(shapes, threads);
    Buffer buffer = buffers.take(static_cast<size_t>(plan->bytes));
    const Memory memory{buffer.data(), plan.get(), &region};
    const auto most = static_cast<size_t>(parallel.most_threads());
    Team team(plan->items.size(), most);
    parallel_for(parallel, most,
                 [&](size_t thread) { take_part(*plan, memory, inputs, outputs, threads, thread, &team, timing); });
    buffers.give(std::move(buffer));
    team.rethrow();
  }
};

Program::Program(Region region, const ProgramOptions& options) {
  auto compiled = std::make_unique<Compiled>();
  const Isa isa = best_isa(options.isa < 0 ? Isa::Avx512 : static_cast<Isa>(options.isa));
  compiled->region = std::move(region);
  compiled->ops = &lane_ops(isa);
  for (Layer& layer : compiled->region.layers) {
    std::unique_ptr<const SparseKernel> kernel;
    if (layer.kind == Layer::Matrix) {
      const Element element = compiled->region.values[static_cast<size_t>(layer.inputs[0])].element;
      kernel = make_kernel(layer.weights, element, layer.activation, layer.inputs.size() > 1, isa, options.jit);
      if (element == Element::F32) {  // the kernel has its own
        layer.weights.columns = {};
        layer.weights.values = {};
      }
    }
    compiled->kernels.push_back(std::move(kernel));
  }
  compiled_ = std::move(compiled);
}

Program::~Program() = default;

std::vector<Program::Shape> Program::output_shapes(const std::vector<Shape>& inputs) const {
  const std::vector<Shape> all = value_shapes(compiled_->region, inputs);
  std::vector<Shape> shapes;
  for (const int value : compiled_->region.outputs) shapes.push_back(all[static_cast<size_t>(value)]);
  return shapes;
}

void Program::run(const std::vector<Shape>& shapes, const void* const* inputs, void* const* outputs,
                  Parallel& parallel) const {
  compiled_->run(shapes, inputs, outputs, parallel, nullptr);
}

Program::Timing Program::time(const std::vector<Shape>& shapes, const void* const* inputs, void* const* outputs) const {
  class Alone final : public Parallel {
   public:
    int threads() const override { return 1; }
    void for_each(size_t count, void (*task)(void*, size_t), void* state) override {
      for (size_t i = 0; i < count; ++i) task(state, i);
    }
  } alone;
  Timing timing;
  compiled_->run(shapes, inputs, outputs, alone, &timing);
  return timing;
}

}  // namespace sparse
