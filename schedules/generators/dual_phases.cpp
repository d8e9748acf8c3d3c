// Writes the eight phases of dual_phases.hpp.
#include "schedules/generators/dual_phases.hpp"

#include <deque>

namespace pipemark {

namespace {

class Writer {
 public:
  explicit Writer(const DualPhases& phases) : phases_(phases) {}

  Row write() {
    const int depth = phases_.depth, away = phases_.half - depth - 1;
    // (1) 2(H-r'-1) x F0
    row_.repeat(2 * away, {forward(0)});
    // (2) (r'+1) x F0 F1
    row_.repeat(depth + 1, {forward(0), forward(1)});
    // (3) (H-r'-1) x I1 W1 F1
    row_.repeat(away, {step(Kind::I, 1), step(Kind::W, 1), forward(1)});
    // (4) (N-2H+r'+1) x FB(F0,B1) FB(F1,B0); the middle ranks' first pair is not overlapped
    const int main = phases_.micro_batches - 2 * phases_.half + depth + 1;
    const bool middle = away == 0;
    if (middle) row_.repeat(1, {forward(0), step(Kind::B, 1), both(1, 0)});
    row_.repeat(main - (middle ? 1 : 0), {both(0, 1), both(1, 0)});
    // (5) (H-r'-1) x B1 FB(F1,B0)
    row_.repeat(away, {step(Kind::B, 1), both(1, 0)});
    // (6) (r'+1) x B1 B0: of these 2(r'+1) backwards the first r'+1 are whole, the others split
    for (int k = 0; k < 2 * (depth + 1); ++k) {
      const int d = k % 2 == 0 ? 1 : 0;
      row_.once(k <= depth ? step(Kind::B, d) : deferring(d));
    }
    // (7) (H-r'-1) x W I0
    for (int k = 0; k < away; ++k) {
      row_.once(oldest_weight_grad());
      row_.once(deferring(0));
    }
    // (8) (r'+1) x W
    while (!deferred_.empty()) row_.once(oldest_weight_grad());
    return std::move(row_);
  }

 private:
  Step step(Kind kind, int d) const {
    return step_of(kind, phases_.direction[d].stage, phases_.direction[d].replica);
  }
  Step forward(int d) const { return step(Kind::F, d); }
  Step both(int f, int b) const { return steps::FB(forward(f), step(Kind::B, b)); }
  Step deferring(int d) {
    deferred_.push_back(d);
    return step(Kind::I, d);
  }
  Step oldest_weight_grad() {
    const int d = deferred_.front();
    deferred_.pop_front();
    return step(Kind::W, d);
  }

  const DualPhases& phases_;
  Row row_;
  std::deque<int> deferred_;
};

}  // namespace

Row DualPhases::row() const { return Writer(*this).write(); }

}  // namespace pipemark
