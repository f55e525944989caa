// The threads that a run may use: those of the session in the provider, those of a test elsewhere.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>

namespace sparse {

class Parallel {
 public:
  virtual ~Parallel() = default;

  // How many threads take part in for_each; a hint for splitting work.
  virtual int threads() const = 0;

  // How many there may be at the most, where `threads` is not sure.
  virtual int most_threads() const { return threads(); }

  // Call task(state, i) once for every i < count, in any order and on any thread, and wait for all. Tasks do not throw.
  virtual void for_each(size_t count, void (*task)(void* state, size_t index), void* state) = 0;
};

// parallel_for(parallel, n, [&](size_t i) { ... }); the first exception of a task is thrown again once all are done.
template <class Body>
void parallel_for(Parallel& parallel, size_t count, const Body& body) {
  struct State {
    const Body& body;
    std::atomic<bool> failed{false};
    std::exception_ptr error;
  } state{body, {}, {}};
  const auto task = [](void* pointer, size_t index) {
    State& shared = *static_cast<State*>(pointer);
    try {
      shared.body(index);
    } catch (...) {
      if (!shared.failed.exchange(true)) shared.error = std::current_exception();
    }
  };
  if (count > 0) parallel.for_each(count, task, &state);
  if (state.error) std::rethrow_exception(state.error);
}

}  // namespace sparse
