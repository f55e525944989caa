// The threads of the session that a run belongs to.
#pragma once

#include <atomic>

#include "core/parallel.h"
#include "ort/api.h"

namespace sparse {

// How many threads there are. ONNX Runtime does not tell an execution provider the size of the session's pool, so it is
// found out: the first runs count the threads that show up when as many tasks as processors wait for one another,
// half a millisecond at most, and every later parallel loop raises the count if more took part in it. It guides how
// work is split, nothing else: too low or too high costs time, not correctness.
class ThreadCount {
 public:
  // `limit`: the most that may be used, 0: as many as there are processors.
  explicit ThreadCount(int limit);

  int limit() const { return limit_; }
  int value() const { return count_.load(std::memory_order_relaxed); }
  void raise(int seen);
  void probe(const ort::Api& api, const ort::KernelContext* context);

 private:
  int limit_;
  std::atomic<int> count_{1};
  std::atomic<int> probes_{0};
};

// Lives as long as one run.
class SessionThreads : public Parallel {
 public:
  SessionThreads(const ort::Api& api, const ort::KernelContext* context, ThreadCount& count);

  int threads() const override { return count_.value(); }
  int most_threads() const override { return count_.limit(); }
  void for_each(size_t count, void (*task)(void* state, size_t index), void* state) override;

 private:
  const ort::Api& api_;
  const ort::KernelContext* context_;
  ThreadCount& count_;
};

}  // namespace sparse
