// The zero-bubble paper's table of profiled times and bubble rates (tests/golden/zero_bubble).
#pragma once

#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace pipemark {

struct ZeroBubbleLine {
  int ranks, micro_batches;
  double forward, input_grad, weight_grad, message;  ///< ms
  double one_f_one_b, h1, h2, zb_1p, zb_2p;          ///< span_bubble_rate
};

inline std::vector<ZeroBubbleLine> read_zero_bubble_table(const std::string& golden_folder) {
  std::ifstream file(golden_folder + "/zero_bubble/table.csv");
  std::vector<ZeroBubbleLine> table;
  std::string line;
  while (std::getline(file, line)) {
    if (line.empty() || line[0] == '#' || line[0] == 'P') continue;
    for (char& c : line) c = c == ',' ? ' ' : c;
    std::istringstream in(line);
    ZeroBubbleLine row{};
    in >> row.ranks >> row.micro_batches >> row.forward >> row.input_grad >> row.weight_grad >>
        row.message >> row.one_f_one_b >> row.h1 >> row.h2 >> row.zb_1p >> row.zb_2p;
    if (!in) throw std::runtime_error("tests/golden/zero_bubble/table.csv: " + line);
    table.push_back(row);
  }
  if (table.empty()) throw std::runtime_error("tests/golden/zero_bubble/table.csv is missing");
  return table;
}

}  // namespace pipemark
