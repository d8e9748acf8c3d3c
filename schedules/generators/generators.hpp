// The generators: one file and one catalogue row a schedule.
#pragma once

#include "schedules/catalogue.hpp"
#include "schedules/program.hpp"

namespace pipemark {

CatalogueRow gpipe_row();
CatalogueRow one_f_one_b_row();
CatalogueRow dualpipe_row();

/// "" or the sentence "ranks = 0: at least 1 rank is needed", for the limits all schedules share.
std::string refuse_basics(const ScheduleRequest& request);

}  // namespace pipemark
