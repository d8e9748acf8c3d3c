// The catalogue's rows, looking one up, and making a schedule by name.
#include "schedules/catalogue.hpp"

#include <algorithm>
#include <numeric>

#include "kernels/check.hpp"
#include "schedules/csv.hpp"
#include "schedules/generators/generators.hpp"
#include "schedules/program.hpp"

namespace pipemark {

namespace {

CatalogueRow complete(CatalogueRow row) {
  if (!row.generate) {
    row.generate = [program = row.program](const ScheduleRequest& request) {
      return expand(program(request));
    };
  }
  return row;
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row.back();
}

}  // namespace

std::string refuse_basics(const ScheduleRequest& request) {
  if (request.ranks < 1) return fmt::format("ranks = {}: at least 1 is needed", request.ranks);
  if (request.micro_batches < 1) {
    return fmt::format("micro_batches = {}: at least 1 is needed", request.micro_batches);
  }
  if (request.chunks < 0) {
    return fmt::format("chunks = {}: 0 (the schedule's own) or more is needed", request.chunks);
  }
  return {};
}

std::string refuse_chunks(const ScheduleRequest& request, const std::string& name, int chunks) {
  if (request.chunks == 0 || request.chunks == chunks) return {};
  return fmt::format("chunks = {}: {} has {} chunks a rank", request.chunks, name, chunks);
}

const std::vector<CatalogueRow>& catalogue() {
  static const std::vector<CatalogueRow> rows = [] {
    std::vector<CatalogueRow> made = {
        gpipe_row(),  one_f_one_b_row(), interleaved_row(), breadth_first_row(), zb_h1_row(),
        zb_h2_row(),  zb_v_row(),        v_half_row(),      v_min_row(),         chimera_row(),
        hanayo_row(), dualpipe_row(),    dualpipev_row(),   zb_auto_row(),
    };
    for (CatalogueRow& row : made) row = complete(std::move(row));
    return made;
  }();
  return rows;
}

const CatalogueRow& find_schedule(std::string_view name) {
  const CatalogueRow* nearest = nullptr;
  std::size_t least = 0;
  std::string names;
  for (const CatalogueRow& row : catalogue()) {
    if (row.name == name) return row;
    const std::size_t distance = edit_distance(name, row.name);
    if (nearest == nullptr || distance < least) {
      nearest = &row;
      least = distance;
    }
    names += (names.empty() ? "" : ", ") + row.name;
  }
  throw UserError(
      fmt::format("schedule '{}' is unknown", name),
      fmt::format("did you mean '{}'? Known: {}, or the path of a CSV file", nearest->name, names));
}

bool is_schedule_file(std::string_view name) {
  return name.find('/') != std::string_view::npos || name.ends_with(".csv");
}

Schedule make_schedule(std::string_view name, const ScheduleRequest& request) {
  if (is_schedule_file(name)) return read_torch_csv(std::string(name)).schedule;
  const CatalogueRow& row = find_schedule(name);
  if (const std::string why = row.refuse(request); !why.empty()) {
    throw UserError(fmt::format("schedule '{}': {}", name, why), row.constraints);
  }
  return row.generate(request);
}

}  // namespace pipemark
