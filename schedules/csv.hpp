// The CSV of torch.distributed.pipelining, read and written: one line a rank, one cell an action,
// empty cells where a rank idles a slot.
//   0F0,0F1,,(0F2;0B0)OVERLAP_F_B,0I1,0W1
// torch's B is the full backward, I and W its halves, as here. Cells of communication, of parameter
// gathering and of gradient reduction (SEND_F, RECV_F, SEND_B, RECV_B and their WAIT_, UNSHARD,
// RESHARD, REDUCE_GRAD, WAIT_REDUCE_GRAD) are checked in form and passed over: Pipemark derives
// messages from the order of the computation. Nothing else is judged here; validate() does that.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "schedules/schedule.hpp"

namespace pipemark {

/// A schedule and where in the file each of its actions stands, from 1.
struct CsvSchedule {
  Schedule schedule;
  struct Place {
    int line = 0, column = 0;  ///< column counts characters
  };
  std::vector<std::vector<Place>> places;  ///< [rank][index]
};

/// Stages lie where they run. A stage on two ranks means two replicas (bidirectional schedules): a
/// micro-batch belongs to the replica whose ranks its forwards run on, the one that enters at the
/// lower rank first. Throws UserError with `file`, line and column for a token that is not torch's,
/// and for a stage that no rank holds or that more ranks hold than replicas can.
CsvSchedule parse_torch_csv(std::string_view text, const std::string& file);
/// Also throws where the file can't be read or holds no action.
CsvSchedule read_torch_csv(const std::string& path);

/// Computation only, as torch's `_load_csv(format="compute_only")` takes it. A schedule of two
/// replicas can be written and read here, but torch's loader allows one rank a stage.
std::string to_torch_csv(const Schedule& schedule);

}  // namespace pipemark
