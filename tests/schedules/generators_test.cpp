// Generators against what their papers publish: DualPipe's order, the zero-bubble table, bubbles
// and peaks in closed form. Where a paper's form does not hold, the difference is asserted.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "kernels/check.hpp"
#include "schedules/catalogue.hpp"
#include "schedules/simulate.hpp"
#include "schedules/text.hpp"
#include "tests/schedules/zero_bubble_table.hpp"

namespace pipemark {

namespace {

/// Sums of a few thousand doubles below 10^4: off by n 2^-53 10^4 < 10^-8.
constexpr double kRounding = 1e-8;

ScheduleRequest request_of(int ranks, int micro_batches, int chunks = 0) {
  ScheduleRequest request;
  request.ranks = ranks;
  request.micro_batches = micro_batches;
  request.chunks = chunks;
  return request;
}

Simulation run(const std::string& name, const ScheduleRequest& request, StageCost times,
               double message = 0) {
  const Schedule schedule = make_schedule(name, request);
  return simulate(schedule,
                  CostModel::uniform(request.ranks, schedule.placement.stages, times, message));
}

/// Idle time of a rank: makespan less its work. All ranks have the same work.
double idle(const Simulation& result) { return result.makespan - result.busy[0]; }
/// Idle time inside the longest span of one rank, as the zero-bubble papers count it.
double span_idle(const Simulation& result) {
  return result.busy[0] / (1 - result.span_bubble_rate) * result.span_bubble_rate;
}
double closed_bubble(const std::string& name, const ScheduleRequest& request, StageCost t) {
  return find_schedule(name).closed_form.bubble(request, t.forward, t.input_grad, t.weight_grad);
}

std::string read(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(DualPipe, OrderIsDeepSeeksPublishedPhases) {
  for (const char* name : {"dualpipe", "dualpipev"}) {
    for (const int ranks : {2, 4, 8}) {
      for (const int micro_batches : {2 * ranks, 20, 32}) {
        const std::string golden = read(
            fmt::format(PIPEMARK_GOLDEN_DIR "/dualpipe/{}_{}_{}.txt", name, ranks, micro_batches));
        ASSERT_FALSE(golden.empty());
        Schedule schedule = make_schedule(name, request_of(ranks, micro_batches));
        EXPECT_EQ(to_text(schedule), golden) << name << ' ' << ranks << ' ' << micro_batches;
        std::swap(schedule.ranks[0][0], schedule.ranks[0][1]);
        EXPECT_NE(to_text(schedule), golden);
      }
    }
  }
}

TEST(ZeroBubble, PublishedTableToFourDigits) {
  constexpr double kPrinted = 0.5e-4 + 1e-9;  // half of the last printed digit
  for (const ZeroBubbleLine& line : read_zero_bubble_table(PIPEMARK_GOLDEN_DIR)) {
    const auto request = request_of(line.ranks, line.micro_batches);
    const StageCost times{line.forward, line.input_grad, line.weight_grad};
    const auto rate = [&](const char* name, double message) {
      return run(name, request, times, message).span_bubble_rate;
    };
    EXPECT_NEAR(rate("1f1b", line.message), line.one_f_one_b, kPrinted);
    EXPECT_NEAR(rate("zb-h1", line.message), line.h1, kPrinted);
    EXPECT_NEAR(rate("zb-h2", line.message), line.h2, kPrinted);
    EXPECT_GT(std::abs(rate("1f1b", 0) - line.one_f_one_b), kPrinted);
    // With messages: 4(P-1)c and 2(P-1)c more than the closed form.
    const double c = line.message, steps = line.ranks - 1;
    EXPECT_NEAR(span_idle(run("zb-h1", request, times, c)),
                closed_bubble("zb-h1", request, times) + 4 * steps * c, kRounding);
    EXPECT_NEAR(span_idle(run("zb-h2", request, times, c)),
                closed_bubble("zb-h2", request, times) + 2 * steps * c, kRounding);
  }
}

TEST(ClosedForm, BubbleOfUnsplitSchedulesAtAnyTimes) {
  for (const StageCost times : {StageCost{1, 1, 1}, {1.3, 0.4, 0.9}, {0.7, 1.9, 0.2}}) {
    for (const int ranks : {1, 2, 3, 4, 8}) {
      for (const int micro_batches : {1, 3, ranks, 2 * ranks, 4 * ranks}) {
        for (const char* name : {"gpipe", "1f1b"}) {
          const auto request = request_of(ranks, micro_batches);
          EXPECT_NEAR(idle(run(name, request, times)), closed_bubble(name, request, times),
                      kRounding)
              << name << " P" << ranks << " M" << micro_batches;
        }
      }
      for (const int chunks : {1, 2, 3, 4}) {
        const auto request = request_of(ranks, 2 * ranks, chunks);
        for (const char* name : {"interleaved-1f1b", "breadth-first"}) {
          EXPECT_NEAR(idle(run(name, request, times)), closed_bubble(name, request, times),
                      kRounding)
              << name << " P" << ranks << " chunks " << chunks;
        }
      }
    }
  }
}

TEST(ClosedForm, InterleavedIsLongerWhereRanksDoNotDivide) {
  // No paper gives a form for it: at least the form's, and less than plain 1F1B's.
  for (const int micro_batches : {5, 6, 7, 9, 10, 11, 13}) {
    const auto request = request_of(4, micro_batches, 2);
    const StageCost times{1, 1, 1};
    const double gap = idle(run("interleaved-1f1b", request, times));
    EXPECT_GE(gap, closed_bubble("interleaved-1f1b", request, times) - kRounding);
    EXPECT_LT(gap, closed_bubble("1f1b", request, times)) << micro_batches;
  }
}

TEST(ClosedForm, ZeroBubbleHandSchedules) {
  for (const StageCost times : {StageCost{1, 1, 1}, {1, 1.2, 0.8}, {2, 2, 1}}) {
    for (const int ranks : {1, 2, 4, 8}) {
      for (const int micro_batches : {2 * ranks, 3 * ranks, 5 * ranks}) {
        const auto request = request_of(ranks, micro_batches);
        EXPECT_NEAR(span_idle(run("zb-h1", request, times)), closed_bubble("zb-h1", request, times),
                    kRounding);
        EXPECT_NEAR(span_idle(run("zb-h2", request, times)), closed_bubble("zb-h2", request, times),
                    kRounding);
      }
    }
  }
  // The paper assumes W <= F, I: beyond it the form goes below zero and the schedule does not.
  const StageCost heavy{1, 1, 3};
  EXPECT_LT(closed_bubble("zb-h1", request_of(4, 12), heavy), 0);
  EXPECT_GT(span_idle(run("zb-h1", request_of(4, 12), heavy)), 0);
}

TEST(ClosedForm, ZeroBubbleVHasNoBubbleInASpan) {
  for (const int ranks : {1, 2, 3, 4, 5, 8, 9}) {
    const Simulation result = run("zb-v", request_of(ranks, 2 * ranks), {1, 1, 1});
    EXPECT_NEAR(span_idle(result), 0, kRounding) << ranks;
    EXPECT_NEAR(idle(result), (ranks - 1) / 2.0, kRounding) << ranks;  // the stagger
  }
}

TEST(ClosedForm, ControllableMemoryBubbles) {
  // No closed form is published; these bounds hold for M >= 4P: about 2P and 1.5P slots.
  for (const int ranks : {2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16}) {
    const auto request = request_of(ranks, 4 * ranks);
    const double v_min = idle(run("v-min", request, {1, 1, 1}));
    const double v_half = idle(run("v-half", request, {1, 1, 1}));
    const double plain = closed_bubble("1f1b", request, {1, 1, 1});
    EXPECT_LE(v_min, 2 * ranks);
    EXPECT_LE(v_half, 1.5 * ranks);
    EXPECT_LE(v_half, v_min);
    EXPECT_LT(v_min, plain);
  }
}

TEST(ClosedForm, DualPipe) {
  for (const int ranks : {2, 4, 8, 16}) {
    for (const int micro_batches : {2 * ranks, 20 + 2 * ranks, 4 * ranks}) {
      const auto request = request_of(ranks, micro_batches);
      for (const StageCost times :
           {StageCost{1, 1, 1}, {2, 2, 2}, {1, 1.2, 0.8}, {1, 0.9, 1.1}, {1.5, 1, 1}}) {
        // Published for equal F, I and W; else each of the steps of the form is off by at most the
        // largest difference between two of them.
        const double unequal = std::max({times.forward, times.input_grad, times.weight_grad}) -
                               std::min({times.forward, times.input_grad, times.weight_grad});
        const auto expect_form = [&](const char* name, int steps, double share) {
          const double simulated = idle(run(name, request, times));
          EXPECT_NEAR(simulated, closed_bubble(name, request, times),
                      2 * steps * share * unequal + kRounding)
              << name << " P" << ranks << " M" << micro_batches << " I " << times.input_grad;
        };
        expect_form("dualpipe", ranks / 2 - 1, 1);
        expect_form("dualpipev", ranks - 1, 0.5);
      }
    }
  }
  // And they do differ there, so the form is not what is simulated.
  const StageCost uneven{1, 1.2, 0.8};
  EXPECT_GT(std::abs(idle(run("dualpipe", request_of(4, 8), uneven)) -
                     closed_bubble("dualpipe", request_of(4, 8), uneven)),
            0.1);
}

TEST(ClosedForm, Chimera) {
  for (const int ranks : {2, 4, 8, 16}) {
    const auto unit = request_of(ranks, ranks);
    for (const StageCost times : {StageCost{1, 1, 1}, {1, 0.5, 0.5}}) {  // B = 2F, B = F
      EXPECT_NEAR(idle(run("chimera", unit, times)), closed_bubble("chimera", unit, times),
                  kRounding)
          << ranks;
    }
    // Forward doubling at B = 2F: no more idle time than one unit, however many are concatenated.
    for (const int units : {1, 2, 4}) {
      const auto doubled = request_of(ranks, 2 * ranks * units);
      EXPECT_LE(idle(run("chimera", doubled, {1, 1, 1})),
                closed_bubble("chimera", doubled, {1, 1, 1}) + kRounding)
          << ranks << ' ' << units;
    }
  }
}

TEST(Hanayo, WavesShortenTheBubble) {
  for (const int ranks : {4, 8}) {
    const auto one = request_of(ranks, ranks, 2), two = request_of(ranks, ranks, 4);
    const double plain = closed_bubble("1f1b", one, {1, 1, 1});
    const double one_wave = idle(run("hanayo", one, {1, 1, 1}));
    const double two_waves = idle(run("hanayo", two, {1, 1, 1}));
    EXPECT_LT(one_wave, plain);
    EXPECT_LT(two_waves, one_wave);
  }
}

TEST(PeakActivations, AreThePublishedOnes) {
  for (const CatalogueRow& row : catalogue()) {
    if (!row.closed_form.peak_activations) continue;
    const bool is_even_pipeline = row.name == "v-half" || row.name == "v-min" || row.name == "zb-v";
    for (const int ranks : {2, 3, 4, 5, 6, 7, 8, 12, 16}) {
      for (const int micro_batches : {2 * ranks, 4 * ranks}) {
        const auto request = request_of(ranks, micro_batches);
        if (!row.refuse(request).empty()) continue;
        const Simulation result = run(row.name, request, {1, 1, 1});
        for (int r = 0; r < ranks; ++r) {
          const double published = row.closed_form.peak_activations(request, r);
          if (is_even_pipeline) {
            EXPECT_LE(result.peak_activations[r], published) << row.name << ' ' << ranks;
          } else {
            EXPECT_EQ(result.peak_activations[r], published)
                << row.name << " P" << ranks << " M" << micro_batches << " rank " << r;
          }
        }
        if (is_even_pipeline) {
          EXPECT_EQ(
              *std::max_element(result.peak_activations.begin(), result.peak_activations.end()),
              row.closed_form.peak_activations(request, 0))
              << row.name << ' ' << ranks;
        }
      }
    }
  }
}

TEST(PeakActivations, OfEachRank) {
  const auto peak = [](const char* name, int ranks, int rank) {
    return run(name, request_of(ranks, 2 * ranks), {1, 1, 1})
        .peak_activations[static_cast<std::size_t>(rank)];
  };
  for (const int ranks : {4, 8}) {
    for (int r = 0; r < ranks; ++r) {
      EXPECT_EQ(peak("1f1b", ranks, r), ranks - r);
      EXPECT_EQ(peak("dualpipe", ranks, r), ranks + 1);
    }
  }
  EXPECT_EQ(peak("v-half", 8, 0), 5);
  EXPECT_EQ(peak("v-min", 8, 0), 4);
}

}  // namespace

}  // namespace pipemark
