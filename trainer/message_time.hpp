// What a boundary tensor takes between neighbouring ranks: the message part of a prediction.
#pragma once

#include "trainer/cluster.hpp"
#include "trainer/transport.hpp"

namespace pipemark {

/// Collective over a pipeline's group: half the median round trip of a message of `buffer`'s size
/// between its ranks 0 and 1, the same on every rank; 0 for one rank. `buffer` is overwritten.
double measure_message_time(Group& pipeline, Transport& transport, Device& device, Tensor buffer);

}  // namespace pipemark
