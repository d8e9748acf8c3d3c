// format_faults: a window of the faulty rank's row, one action a line, the place marked.
//
//   rank 2: 2F3 is missing before here
//        4  2F2
//        5  2B3  <-- HERE
//        6  2B1
#include <algorithm>

#include "kernels/check.hpp"
#include "schedules/text.hpp"
#include "schedules/validate.hpp"

namespace pipemark {

namespace {

constexpr int kBefore = 3, kAfter = 3;   // actions shown around a fault
constexpr std::size_t kMostFaults = 20;  // shown in full; the rest are counted

void append_row(std::string& out, const std::vector<Action>& row, int index) {
  const int size = static_cast<int>(row.size());
  const int from = std::max(0, index - kBefore), to = std::min(size, index + kAfter + 1);
  for (int i = from; i < to; ++i) {
    out += fmt::format("  {:>7}  {}{}\n", i, to_text(row[static_cast<std::size_t>(i)]),
                       i == index ? "  <-- HERE" : "");
  }
  if (index >= size) out += fmt::format("  {:>7}  end  <-- HERE\n", size);
}

}  // namespace

std::string format_faults(const Schedule& schedule, const std::vector<Fault>& faults) {
  std::string out;
  for (std::size_t k = 0; k < faults.size() && k < kMostFaults; ++k) {
    const Fault& fault = faults[k];
    const bool placed =
        fault.rank >= 0 && fault.rank < static_cast<int>(schedule.ranks.size()) && fault.index >= 0;
    if (!placed) {
      out += fmt::format("{}\n", fault.what);
      continue;
    }
    out += fmt::format("rank {}: {}\n", fault.rank, fault.what);
    append_row(out, schedule.ranks[static_cast<std::size_t>(fault.rank)], fault.index);
  }
  if (faults.size() > kMostFaults) {
    out += fmt::format("and {} more\n", faults.size() - kMostFaults);
  }
  return out;
}

}  // namespace pipemark
