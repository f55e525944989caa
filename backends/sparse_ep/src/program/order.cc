#include "program/order.h"

#include <algorithm>

namespace sparse {
namespace {

// Code and weights of a segment are read again for every band, so they have to stay in the second-level cache; values
// are worth it once they do not.
constexpr int64_t kMostCode = 640 << 10;
constexpr int64_t kSmallValue = 512 << 10;
constexpr int64_t kBandBytes = 768 << 10;
constexpr int64_t kLeastBlocks =
    32;  // of a band: below, waiting for each other costs the threads more than memory does

class Orderer {
 public:
  Orderer(const std::vector<Step>& steps, size_t values)
      : steps_(steps), done_(steps.size(), 0), producer_(values, -1) {
    for (size_t i = 0; i < steps.size(); ++i)
      if (steps[i].output >= 0) producer_[static_cast<size_t>(steps[i].output)] = static_cast<int>(i);
  }

  std::vector<Item> run() {
    for (size_t first = 0; first < steps_.size();) {
      const size_t last = segment_end(first);
      const int64_t bands = bands_of(first, last);
      const std::vector<size_t> ends = ends_of(first, last);
      for (int64_t band = 1; band <= bands; ++band)
        for (const size_t end : ends) ensure(end, (steps_[end].out.blocks() * band + bands - 1) / bands);
      first = last;
    }
    return std::move(items_);
  }

 private:
  static int64_t code_of(const Step& step) { return step.kernel ? step.kernel->bytes() : 0; }

  static bool in_bands(const Step& step) {
    return !(step.layer && step.layer->kind == Layer::GlobalAveragePool) &&
           std::max(step.in.bytes(), step.out.bytes()) > kSmallValue;
  }

  size_t segment_end(size_t first) const {
    size_t last = first;
    for (int64_t code = 0; last < steps_.size() && in_bands(steps_[last]); ++last) {
      code += code_of(steps_[last]);
      if (code > kMostCode) break;
    }
    return std::max(last, first + 1);
  }

  int64_t bands_of(size_t first, size_t last) const {
    if (last - first < 2) return 1;
    int64_t bytes = 0, blocks = 0;
    for (size_t i = first; i < last; ++i) {
      bytes += steps_[i].out.bytes();
      blocks = std::max(blocks, steps_[i].out.blocks());
    }
    return std::max<int64_t>(1, std::min(bytes / kBandBytes, blocks / kLeastBlocks));
  }

  // Steps whose results nothing within the segment reads.
  std::vector<size_t> ends_of(size_t first, size_t last) const {
    std::vector<char> read(last - first, 0);
    for (size_t i = first; i < last; ++i)
      for (const int input : steps_[i].inputs)
        if (const int producer = producer_[static_cast<size_t>(input)]; producer >= static_cast<int>(first))
          read[static_cast<size_t>(producer) - first] = 1;
    std::vector<size_t> ends;
    for (size_t i = first; i < last; ++i)
      if (!read[i - first]) ends.push_back(i);
    return ends;
  }

  // Compute blocks [0, upto) of a step, and before them what they read.
  void ensure(size_t index, int64_t upto) {
    const Step& step = steps_[index];
    upto = std::min(step.out.blocks(), (upto + step.tile - 1) / step.tile * step.tile);
    if (upto <= done_[index]) return;
    for (size_t i = 0; i < step.inputs.size(); ++i) {
      const int producer = producer_[static_cast<size_t>(step.inputs[i])];
      ensure(static_cast<size_t>(producer), i == 0 ? blocks_read(step, upto) : upto);
    }
    items_.push_back({index, done_[index], upto});
    done_[index] = upto;
  }

  static int64_t blocks_read(const Step& step, int64_t upto) {
    if (step.layer && step.layer->kind == Layer::GlobalAveragePool) return step.in.blocks();
    if (!step.gather || step.gather->identity) return upto;
    return step.gather->reach[static_cast<size_t>(upto - 1)] + 1;
  }

  const std::vector<Step>& steps_;
  std::vector<int64_t> done_;
  std::vector<int> producer_;
  std::vector<Item> items_;
};

}  // namespace

std::vector<Item> order_of_work(const std::vector<Step>& steps, size_t values) { return Orderer(steps, values).run(); }

}  // namespace sparse
