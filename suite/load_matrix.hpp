// Expert loads from a file: rows are layers, columns are experts. JSON is the bare array [[...],
// ...] (or one row [...]), CSV a row a line (a first line without numbers is taken as names), HDF5
// a dataset of one or two dimensions.
#pragma once

#include <string>

#include "balancers/expert_placement.hpp"

namespace pipemark {

/// The kind is told by the content, not by the name. `dataset` is HDF5's; empty: "loads", or the
/// only one there is. Throws UserError naming file, row, column and value.
Matrix<float> read_loads(const std::string& path, const std::string& dataset = {});

/// The replicas' experts that `balance experts --format json` prints as phy2log (that document, or
/// the bare array).
Matrix<int> read_phy2log(const std::string& path);

}  // namespace pipemark
