#include "provider/session_threads.h"

#include <algorithm>
#include <chrono>
#include <thread>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace sparse {

namespace {

// The pool orders what happens before, in and after its tasks. ThreadSanitizer does not see that, ONNX Runtime being
// compiled without it, and is told.
void hand_over([[maybe_unused]] void* state) {
#ifdef __SANITIZE_THREAD__
  __tsan_release(state);
#endif
}

void take_over([[maybe_unused]] void* state) {
#ifdef __SANITIZE_THREAD__
  __tsan_acquire(state);
#endif
}

// Run `task` as often as there are threads at the most, each time on a thread of its own if the pool has one.
void on_threads(const ort::Api& api, const ort::KernelContext* context, size_t threads, void (*task)(void*, size_t),
                void* state) {
  hand_over(state);
  api.call(ort::api::kParallelFor, context, task, threads, threads, state);
  take_over(state);
}

constexpr int kProbes = 3;  // in case that threads were late for the first
constexpr auto kPatience = std::chrono::microseconds(500);

struct Probe {
  int wanted = 0;
  std::atomic<int> present{0};
  std::atomic<bool> over{false};
};

// Waits for the others, so that no thread can be counted twice.
void arrive(void* state, size_t) {
  take_over(state);
  Probe& probe = *static_cast<Probe*>(state);
  if (!probe.over.load(std::memory_order_relaxed)) {
    probe.present.fetch_add(1, std::memory_order_relaxed);
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!probe.over.load(std::memory_order_relaxed) && std::chrono::steady_clock::now() < deadline &&
           probe.present.load(std::memory_order_relaxed) < probe.wanted) {
      std::this_thread::yield();
    }
    probe.over.store(true, std::memory_order_relaxed);
  }
  hand_over(state);
}

// One loop over the indices of for_each, shared by the threads that run it.
struct Loop {
  void (*task)(void* state, size_t index) = nullptr;
  void* state = nullptr;
  size_t count = 0;
  std::atomic<size_t> next{0};
  std::atomic<int> took_part{0};
};

void work(void* state, size_t) {
  take_over(state);
  Loop& loop = *static_cast<Loop*>(state);
  size_t index = loop.next.fetch_add(1, std::memory_order_relaxed);
  if (index < loop.count) loop.took_part.fetch_add(1, std::memory_order_relaxed);
  for (; index < loop.count; index = loop.next.fetch_add(1, std::memory_order_relaxed)) loop.task(loop.state, index);
  hand_over(state);
}

}  // namespace

ThreadCount::ThreadCount(int limit)
    : limit_(limit > 0 ? limit : std::max(1, static_cast<int>(std::thread::hardware_concurrency()))) {}

void ThreadCount::raise(int seen) {
  int known = value();
  while (seen > known && !count_.compare_exchange_weak(known, seen, std::memory_order_relaxed)) {
  }
}

void ThreadCount::probe(const ort::Api& api, const ort::KernelContext* context) {
  if (value() >= limit_ || probes_.load(std::memory_order_relaxed) >= kProbes) return;
  if (probes_.fetch_add(1, std::memory_order_relaxed) >= kProbes) return;
  Probe probe;
  probe.wanted = limit_;
  on_threads(api, context, static_cast<size_t>(limit_), arrive, &probe);
  raise(std::min(limit_, probe.present.load(std::memory_order_relaxed)));
}

SessionThreads::SessionThreads(const ort::Api& api, const ort::KernelContext* context, ThreadCount& count)
    : api_(api), context_(context), count_(count) {
  count_.probe(api_, context_);
}

void SessionThreads::for_each(size_t count, void (*task)(void* state, size_t index), void* state) {
  const size_t workers = std::min(count, static_cast<size_t>(count_.limit()));
  if (workers <= 1) {
    for (size_t index = 0; index < count; ++index) task(state, index);
    return;
  }
  Loop loop;
  loop.task = task;
  loop.state = state;
  loop.count = count;
  // Every worker draws indices until none is left, so that a thread that comes late holds up nobody.
  on_threads(api_, context_, workers, work, &loop);
  count_.raise(loop.took_part.load(std::memory_order_relaxed));
}

}  // namespace sparse
