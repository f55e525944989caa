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
  Team(size_t items, size_t threads)
      : threads_(threads), next_(new Counter[items * threads]), done_(new Counter[items]) {}

  // Called by every thread, which has a number, for every item in turn. Returns once all tasks are done.
  template <class Work>
  void share(size_t item, size_t thread, const Work& work) {
    const size_t tasks = work.tasks();
    std::atomic<size_t>& done = done_[item].value;
    for (size_t i = 0; i < threads_; ++i) {
      const size_t owner = (thread + i) % threads_, end = tasks * (owner + 1) / threads_,
                   begin = tasks * owner / threads_;
      std::atomic<size_t>& next = next_[item * threads_ + owner].value;
      for (size_t task; (task = begin + next.fetch_add(1, std::memory_order_relaxed)) < end;) {
        try {
          if (!failed_.load(std::memory_order_relaxed)) work.run(task);
        } catch (...) {
          if (!failed_.exchange(true)) error_ = std::current_exception();
        }
        done.fetch_add(1, std::memory_order_release);
      }
    }
    for (int spins = 0; done.load(std::memory_order_acquire) < tasks; ++spins)
      if (spins > kSpins) std::this_thread::yield();
  }

  // After all threads are through: the first exception of a task.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr int kSpins = 20000;

  struct alignas(64) Counter {
    std::atomic<size_t> value{0};
  };
  const size_t threads_;
  const std::unique_ptr<Counter[]> next_, done_;  // of each item and thread; of each item
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

}  // namespace sparse
