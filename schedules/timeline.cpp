// Timeline's figures: makespan, busy time, and the two bubble figures of DESIGN.md section 1.
#include "schedules/timeline.hpp"

#include <algorithm>
#include <limits>

namespace pipemark {

namespace {

struct Span {
  double first = std::numeric_limits<double>::infinity();
  double last = -std::numeric_limits<double>::infinity();
  void add(const TimedAction& timed) {
    first = std::min(first, timed.start_s);
    last = std::max(last, timed.end_s);
  }
  double length() const { return last > first ? last - first : 0; }
};

Span span_of(const Timeline& timeline) {
  Span span;
  for (const auto& row : timeline.ranks) {
    for (const TimedAction& timed : row) span.add(timed);
  }
  return span;
}

}  // namespace

double Timeline::first_start_s() const { return span_of(*this).first; }

double Timeline::makespan_s() const { return span_of(*this).length(); }

double Timeline::busy_s(int rank) const {
  double busy = 0;
  for (const TimedAction& timed : ranks[static_cast<std::size_t>(rank)]) {
    busy += timed.end_s - timed.start_s;
  }
  return busy;
}

double Timeline::bubble_ratio() const {
  const double makespan = makespan_s();
  if (makespan <= 0) return 0;
  double busy = 0;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) busy += busy_s(static_cast<int>(rank));
  return 1 - busy / (static_cast<double>(ranks.size()) * makespan);
}

double Timeline::span_bubble_rate() const {
  double longest = 0, work = 0;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    Span span;
    for (const TimedAction& timed : ranks[rank]) span.add(timed);
    if (span.length() > longest) {
      longest = span.length();
      work = busy_s(static_cast<int>(rank));
    }
  }
  return longest > 0 ? (longest - work) / longest : 0;
}

}  // namespace pipemark
