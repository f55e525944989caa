#include "program/place.h"

#include <algorithm>
#include <limits>

namespace sparse {
namespace {

struct Life {
  int64_t birth = std::numeric_limits<int64_t>::max(), death = -1;  // items
  int64_t bytes = 0;
  void touch(int64_t when) {
    birth = std::min(birth, when);
    death = std::max(death, when);
  }
};

// Does the step read block b of its input for block b of its output and nothing else of it?
bool reads_block_by_block(const Step& step, size_t input) {
  if (input > 0 || step.kind != Step::Compute) return true;
  return step.gather ? step.gather->identity : step.layer->kind != Layer::GlobalAveragePool;
}

// Largest number of blocks of an item, if the value passes; otherwise 0.
int64_t passing_blocks(const std::vector<Item>& items, const std::vector<size_t>& made,
                       const std::vector<size_t>& read) {
  if (made.size() != read.size() || made.size() < 2) return 0;
  int64_t most = 0;
  for (size_t i = 0; i < made.size(); ++i) {
    const Item &producer = items[made[i]], &reader = items[read[i]];
    if (producer.first != reader.first || producer.last != reader.last) return 0;
    if (i + 1 < made.size() && made[i + 1] < read[i]) return 0;
    most = std::max(most, producer.last - producer.first);
  }
  return most;
}

std::vector<Life> lives_of(Plan* plan) {
  std::vector<Life> lives(plan->layouts.size());
  std::vector<std::vector<size_t>> made(lives.size()), read(lives.size());  // items
  std::vector<char> shared(lives.size(), 0);
  std::vector<int> reader(lives.size(), -1);
  for (size_t when = 0; when < plan->items.size(); ++when) {
    const auto index = static_cast<int>(plan->items[when].step);
    const Step& step = plan->steps[plan->items[when].step];
    for (size_t i = 0; i < step.inputs.size(); ++i) {
      const auto v = static_cast<size_t>(step.inputs[i]);
      lives[v].touch(static_cast<int64_t>(when));
      const bool again = !read[v].empty() && read[v].back() == when;  // both inputs of a sum
      if ((reader[v] >= 0 && reader[v] != index) || again || !reads_block_by_block(step, i)) shared[v] = 1;
      reader[v] = index;
      read[v].push_back(when);
    }
    if (step.output < 0) continue;
    lives[static_cast<size_t>(step.output)].touch(static_cast<int64_t>(when));
    made[static_cast<size_t>(step.output)].push_back(when);
  }
  plan->passing.assign(lives.size(), 0);
  for (size_t v = 0; v < lives.size(); ++v) {
    const int64_t blocks = shared[v] ? 0 : passing_blocks(plan->items, made[v], read[v]);
    plan->passing[v] = blocks > 0;
    lives[v].bytes = blocks > 0 ? blocks * plan->layouts[v].block_bytes() : plan->layouts[v].bytes();
  }
  return lives;
}

}  // namespace

void place_values(Plan* plan) {
  const std::vector<Life> lives = lives_of(plan);
  std::vector<size_t> by_size;
  for (size_t v = 0; v < lives.size(); ++v)
    if (lives[v].death >= lives[v].birth) by_size.push_back(v);
  std::stable_sort(by_size.begin(), by_size.end(), [&](size_t a, size_t b) { return lives[a].bytes > lives[b].bytes; });
  plan->offsets.assign(lives.size(), 0);
  std::vector<size_t> placed;  // by offset
  for (const size_t v : by_size) {
    int64_t offset = 0;
    for (const size_t other : placed) {
      if (lives[other].death < lives[v].birth || lives[v].death < lives[other].birth) continue;
      if (offset + lives[v].bytes <= plan->offsets[other]) break;
      offset = std::max(offset, plan->offsets[other] + lives[other].bytes);
    }
    plan->offsets[v] = offset;
    plan->bytes = std::max(plan->bytes, offset + lives[v].bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), v,
                                   [&](size_t a, size_t b) { return plan->offsets[a] < plan->offsets[b]; }),
                  v);
  }
}

}  // namespace sparse
