// What a boundary tensor takes between neighbouring ranks: the message part of a prediction.
#pragma once

#include "trainer/cluster.hpp"
#include "trainer/transport.hpp"

namespace pipemark {

/// Collective over a pipeline's group: the time from the end of the work that makes a message of
/// `out`'s size to the start of the work that reads it, half a round trip between ranks 0 and 1, the
/// same on every rank; 0 for one rank. A stream-ordered transport is timed by the device over rounds
/// that the host has enqueued before, others by the host, the median of nine. `out` and `in`, of one
/// size and both this rank's, are overwritten.
double measure_message_time(Group& pipeline, Transport& transport, Device& device, Tensor out,
                            Tensor in);

}  // namespace pipemark
