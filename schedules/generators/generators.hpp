// The generators: one file and one catalogue row a schedule.
#pragma once

#include "schedules/catalogue.hpp"
#include "schedules/program.hpp"

namespace pipemark {

CatalogueRow gpipe_row();
CatalogueRow one_f_one_b_row();
CatalogueRow interleaved_row();
CatalogueRow breadth_first_row();
CatalogueRow zb_h1_row();
CatalogueRow zb_h2_row();
CatalogueRow zb_v_row();
CatalogueRow v_half_row();
CatalogueRow v_min_row();
CatalogueRow chimera_row();
CatalogueRow hanayo_row();
CatalogueRow dualpipe_row();
CatalogueRow dualpipev_row();
CatalogueRow zb_auto_row();

/// "" or the sentence "ranks = 0: at least 1 rank is needed", for the limits all schedules share.
std::string refuse_basics(const ScheduleRequest& request);
/// "" or a sentence, for a schedule whose number of chunks is fixed.
std::string refuse_chunks(const ScheduleRequest& request, const std::string& name, int chunks);

}  // namespace pipemark
