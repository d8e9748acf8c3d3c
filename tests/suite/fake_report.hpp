// A TrainReport as two ranks would give it, made by hand: 12 steps, 1F1B of two micro-batches.
#pragma once

#include "suite/config.hpp"
#include "suite/results.hpp"

namespace pipemark {

inline RunConfig fake_config() {
  RunConfig config;
  config.train.steps = 12;
  config.train.batch = 4;
  config.train.micro_batches = 2;
  config.parallel.pipeline = 2;
  config.data.train = "text with \"quotes\" and \\.txt";
  return config;
}

inline TrainReport fake_report() {
  const RunConfig config = fake_config();
  TrainReport report;
  report.schedule = "1f1b";
  report.balancer = "static-even";
  report.backend = "kokkos";
  report.transport = "mpi";
  report.ranks = report.stages = report.micro_batches = 2;
  report.complete = true;
  report.parameters = config.model.parameters();
  report.tokens_per_step = 4 * config.model.context;
  for (int i = 0; i < 12; ++i) {
    StepReport step;
    step.step = i;
    step.loss = 5.5 - 0.1 * i;
    step.step_s = 0.1 + 0.01 * (i % 5);
    step.pipeline_s = 0.09;
    step.bubble_ratio = 0.3;
    step.warmup = i < 2;
    report.steps.push_back(step);
  }
  for (int r = 0; r < 2; ++r) {
    report.rank_reports.push_back({r, "host", "cpu", 1000 + r, 2000 - r, 2 - r, 2 - r, 50});
  }
  const auto at = [](Kind kind, int stage, int m, double start, double end) {
    Action action;
    action.kind = kind;
    action.stage = static_cast<std::int16_t>(stage);
    action.micro_batch = m;
    return TimedAction{action, start, end, 0};
  };
  report.timeline.ranks = {{at(Kind::F, 0, 0, 0, 1), at(Kind::F, 0, 1, 1, 2),
                            at(Kind::B, 0, 0, 4, 6), at(Kind::B, 0, 1, 7, 9)},
                           {at(Kind::F, 1, 0, 1, 2), at(Kind::B, 1, 0, 2, 4),
                            at(Kind::F, 1, 1, 4, 5), at(Kind::B, 1, 1, 5, 7)}};
  report.decisions = {{5,
                       "boundaries",
                       "rank 1 is 1.5 times slower",
                       {0, 3, 6},
                       {0, 1},
                       2,
                       0.12,
                       0.1,
                       0.05,
                       true,
                       "",
                       0.04,
                       4096}};
  report.predicted_makespan_s = 9;
  report.predicted_bubble_ratio = 1.0 / 3;
  report.predicted_timeline = report.timeline;
  report.idle.total.fill_drain = report.timeline.bubble_ratio() - 0.01;
  report.idle.total.overhead = 0.01;
  report.idle.ranks.assign(2, report.idle.total);
  return report;
}

}  // namespace pipemark
