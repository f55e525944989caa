// Threads that go through the items of a run together.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <thread>

#include "core/parallel.h"

namespace sparse {

// The session's pool is asked once for a run, not once for an item: waking threads costs as much as a small layer. Each
// thread goes through all items, takes tasks of an item until none is left and waits for those that others took. A
// thread that comes late joins where the others are; one that never comes is not missed.
class Team {
 public:
  explicit Team(size_t items) : progress_(new Progress[items]) {}

  // Called by every thread for every item in turn. Returns once all tasks are done.
  template <class Work>
  void share(size_t item, const Work& work) {
    Progress& progress = progress_[item];
    const size_t tasks = work.tasks();
    for (size_t task = progress.next.fetch_add(1, std::memory_order_relaxed); task < tasks;
         task = progress.next.fetch_add(1, std::memory_order_relaxed)) {
      try {
        if (!failed_.load(std::memory_order_relaxed)) work.run(task);
      } catch (...) {
        if (!failed_.exchange(true)) error_ = std::current_exception();
      }
      progress.done.fetch_add(1, std::memory_order_release);
    }
    for (int spins = 0; progress.done.load(std::memory_order_acquire) < tasks; ++spins)
      if (spins > kSpins) std::this_thread::yield();
  }

  // After all threads are through: the first exception of a task.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr int kSpins = 20000;

  struct alignas(64) Progress {
    std::atomic<size_t> next{0}, done{0};
  };
  const std::unique_ptr<Progress[]> progress_;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

}  // namespace sparse
