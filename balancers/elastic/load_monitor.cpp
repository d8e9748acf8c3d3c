#include "balancers/elastic/load_monitor.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/check.hpp"

namespace pipemark {

namespace {
/// Another cell changed along: it alarmed a few steps ago at most, or is on its way.
constexpr int kAlongSteps = 3;
constexpr double kAlongLeaning = 0.3;
/// Weight of a step in the smoothed waits.
constexpr double kWaitWeight = 0.1;
/// Standard errors that a factor must be off before it is corrected.
constexpr double kNews = 4;
/// A first guess counts as this many steps.
constexpr double kGuessSteps = 2;
}  // namespace

const char* to_string(ChangeCause cause) {
  switch (cause) {
    case ChangeCause::device:
      return "device";
    case ChangeCause::stage:
      return "stage";
    case ChangeCause::undecided:
      return "device or its stage";
  }
  return "unknown";
}

double ChangeDetector::sigma() const { return std::max(kLeastSigma, std::sqrt(variance_)); }

double ChangeDetector::error() const { return sigma() / std::sqrt(std::max(1.0, count_)); }

double ChangeDetector::leaning() const {
  const double limit = kThreshold * sigma();
  return up_.s >= down_.s ? std::min(1.0, up_.s / limit) : -std::min(1.0, down_.s / limit);
}

bool ChangeDetector::drive(Drive& side, double add, double limit) {
  side.s += add;
  if (side.s <= 0) {
    side = {};
    return false;
  }
  side.largest = std::max(side.largest, add);
  return add > 0 && side.s > limit && side.s - side.largest > kWithoutLargest * limit;
}

void ChangeDetector::take_new_mean() {
  const double off = recent_.back() - mean_;
  double sum = 0;
  count_ = 0;
  for (auto x = recent_.rbegin(); x != recent_.rend() && (*x - mean_) / off >= 0.5; ++x) {
    sum += *x;
    count_ += 1;
  }
  jump_ = sum / count_ - mean_;
  mean_ += jump_;
  up_ = down_ = {};
}

bool ChangeDetector::observe(double x) {
  const double before = sigma();
  if (has_last_) {
    // A difference of independent steps has twice their variance; a jump must not count as noise.
    const double d = std::clamp(x - last_, -4 * before, 4 * before);
    differences_ = std::min(differences_ + 1, kWindow);
    variance_ += (d * d / 2 - variance_) / differences_;
  }
  last_ = x;
  has_last_ = true;
  if (count_ == 0) {
    mean_ = x;
    count_ = 1;
    return false;
  }
  const double k = std::max(before / 2, kIndifference) + error(), limit = kThreshold * before;
  const double off = std::clamp(x - mean_, -kClip * limit, kClip * limit);
  recent_.push_back(x);
  if (recent_.size() > kRecent) recent_.pop_front();
  const bool up = drive(up_, off - k, limit), down = drive(down_, -off - k, limit);
  if (up || down) {
    take_new_mean();
    return true;
  }
  count_ = std::min(count_ + 1, kWindow);
  mean_ += std::clamp(x - mean_, -4 * before, 4 * before) / count_;
  return false;
}

void ChangeDetector::prime(double mean, double sigma) {
  mean_ = mean;
  count_ = kGuessSteps;
  variance_ = sigma * sigma;
}

LoadMonitor::LoadMonitor(std::vector<double> factors)
    : factors_(std::move(factors)), wait_s_(factors_.size(), 0.0) {}

LoadMonitor::Cell& LoadMonitor::cell_of(const Sample& sample) {
  for (Cell& cell : cells_) {
    if (cell.rank == sample.rank && cell.replica == sample.replica && cell.stage == sample.stage) {
      return cell;
    }
  }
  Cell& cell = cells_.emplace_back(Cell{sample.rank, sample.replica, sample.stage, 0, {}, 1 << 20});
  if (known_sigma_ > 0) {
    cell.detector.prime(std::log(factors_[static_cast<std::size_t>(sample.rank)]), known_sigma_);
  }
  return cell;
}

ChangeCause LoadMonitor::cause_of(const Cell& cell) const {
  int of_rank = 0, of_rank_along = 0, of_stage = 0, of_stage_along = 0;
  for (const Cell& other : cells_) {
    if (&other == &cell || (other.rank != cell.rank && other.stage != cell.stage)) continue;
    const bool same_way = other.detector.leaning() * cell.detector.jump() > 0;
    const bool along = other.since_alarm <= kAlongSteps ||
                       (same_way && std::abs(other.detector.leaning()) > kAlongLeaning);
    (other.rank == cell.rank ? of_rank : of_stage) += 1;
    (other.rank == cell.rank ? of_rank_along : of_stage_along) += along;
  }
  if (of_rank + of_stage == 0) return ChangeCause::undecided;
  if (of_rank_along > 0) return ChangeCause::device;
  if (of_stage_along > 0) return ChangeCause::stage;
  // Alone: the device's where only other ranks could tell, the stage's where only it could.
  return of_rank > 0 ? ChangeCause::stage : ChangeCause::device;
}

void LoadMonitor::observe(const std::vector<Sample>& samples,
                          const std::vector<double>& memory_bytes) {
  changes_.clear();
  memory_bytes_ = memory_bytes;
  std::vector<double> waits(factors_.size(), 0.0);
  std::vector<std::size_t> alarmed;
  for (const Sample& sample : samples) {
    check(sample.ratio > 0 && std::isfinite(sample.ratio), "LoadMonitor: a ratio of {}",
          sample.ratio);
    Cell& cell = cell_of(sample);
    cell.weight = sample.expected_s;
    waits[static_cast<std::size_t>(sample.rank)] += sample.wait_s;
    cell.since_alarm = std::min(cell.since_alarm + 1, 1 << 20);
    if (cell.detector.observe(std::log(sample.ratio))) {
      cell.since_alarm = 0;
      alarmed.push_back(static_cast<std::size_t>(&cell - cells_.data()));
    }
  }
  for (const std::size_t i : alarmed) {
    const Cell& cell = cells_[i];
    changes_.push_back({cause_of(cell), cell.rank, cell.stage, std::exp(cell.detector.jump())});
  }
  for (std::size_t r = 0; r < waits.size(); ++r) {
    wait_s_[r] += kWaitWeight * (waits[r] - wait_s_[r]);
  }
  update_factors();
}

void LoadMonitor::update_factors() {
  std::vector<double> sum(factors_.size(), 0.0), weight(factors_.size(), 0.0);
  for (const Cell& cell : cells_) {
    if (!cell.detector.known()) continue;
    const auto r = static_cast<std::size_t>(cell.rank);
    sum[r] += cell.weight * cell.detector.mean();
    weight[r] += cell.weight;
  }
  for (std::size_t r = 0; r < factors_.size(); ++r) {
    if (weight[r] == 0) continue;
    // What is within the error of what was known is no news: devices that are alike stay equal.
    const double now = sum[r] / weight[r], known = std::log(factors_[r]);
    if (std::abs(now - known) > kNews * error(static_cast<int>(r))) factors_[r] = std::exp(now);
  }
}

double LoadMonitor::error(int rank) const {
  double least = ChangeDetector::kFirstSigma;
  for (const Cell& cell : cells_) {
    if (cell.rank == rank) least = std::min(least, cell.detector.error());
  }
  return least;
}

double LoadMonitor::noise() const {
  double sum = 0;
  for (const Cell& cell : cells_) sum += cell.detector.sigma();
  return cells_.empty() ? ChangeDetector::kFirstSigma : sum / static_cast<double>(cells_.size());
}

void LoadMonitor::plan_changed() {
  known_sigma_ = noise();
  cells_.clear();
}

void LoadMonitor::explain(int stage, double factor) {
  for (Cell& cell : cells_) {
    if (cell.stage == stage) cell.detector.shift(-std::log(factor));
  }
  update_factors();
}

}  // namespace pipemark
