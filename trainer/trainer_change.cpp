// The pipeline changed at a step's end: the balancer is asked on rank 0, every rank hears the plan,
// the new stages are built in an arena of their own, the parameters move, the old arena goes. Peak
// memory in between is both arenas'; where the second one does not fit, the run stays as it is.
#include <cstring>

#include "trainer/migration.hpp"
#include "trainer/together.hpp"
#include "trainer/trainer_impl.hpp"

namespace pipemark {

namespace {
/// A plan as the other ranks hear it: M, S, the partition's S + 1 numbers, the ranks.
std::string to_bytes(const PipelinePlan& plan) {
  std::vector<int> numbers{plan.micro_batches, plan.partition.stages()};
  numbers.insert(numbers.end(), plan.partition.first.begin(), plan.partition.first.end());
  numbers.insert(numbers.end(), plan.ranks.begin(), plan.ranks.end());
  return {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(int)};
}

PipelinePlan plan_of(const std::string& bytes) {
  std::vector<int> numbers(bytes.size() / sizeof(int));
  std::memcpy(numbers.data(), bytes.data(), bytes.size());
  const auto ranks = numbers.begin() + 3 + numbers[1];
  return {{{numbers.begin() + 2, ranks}}, numbers[0], {ranks, numbers.end()}};
}

/// A pair's time is the sum of its halves': a third for F, the rest for B.
void add_action(StageTimes& forward, StageTimes& backward, const TimedAction& timed) {
  const double time_s = timed.end_s - timed.start_s;
  const Kind kind = timed.action.kind;
  forward.wait_s += timed.wait_s;
  const double forward_s = kind == Kind::F ? time_s : kind == Kind::FB ? time_s / 3 : 0;
  forward.forward_s += forward_s;
  forward.micro_batches += kind == Kind::F || kind == Kind::FB;
  const double rest_s = time_s - forward_s;
  if (kind == Kind::W) {
    backward.weight_grad_s += rest_s;
  } else if (kind == Kind::I) {
    backward.input_grad_s += rest_s;
  } else {
    backward.input_grad_s += rest_s / 2;
    backward.weight_grad_s += rest_s / 2;
  }
}

/// Of the data dimension's ranks that hold the same stage the slowest counts.
void add_slower(std::vector<StageTimes>& all, const StageTimes& one) {
  for (StageTimes& other : all) {
    if (other.rank != one.rank || other.replica != one.replica || other.stage != one.stage)
      continue;
    if (one.total_s() > other.total_s()) other = one;
    return;
  }
  all.push_back(one);
}

std::vector<StageTimes> stage_times(const ExecutorPlan& plan, const ActionTimes& times) {
  std::vector<StageTimes> stages;
  for (const HeldStage& held : plan.held) {
    stages.push_back({plan.rank, held.replica, held.stage, 0, 0, 0, 0, 0});
  }
  const auto of = [&](int replica, int stage) -> StageTimes& {
    for (StageTimes& each : stages) {
      if (each.replica == replica && each.stage == stage) return each;
    }
    throw LogicError(fmt::format("rank {} timed stage {} that it does not hold", plan.rank, stage));
  };
  for (const TimedAction& timed : times.actions) {
    const Action& a = timed.action;
    const bool pair = a.kind == Kind::FB;
    add_action(of(a.replica, a.stage), pair ? of(a.replica_b, a.stage_b) : of(a.replica, a.stage),
               timed);
  }
  return stages;
}
}  // namespace

StepObservation Trainer::Impl::observe(const StepReport& step) {
  constexpr std::size_t kFields = 8;
  std::vector<double> mine{static_cast<double>(grid_.pipeline_rank),
                           static_cast<double>(pieces_->arena.used_bytes())};
  for (const StageTimes& s : stage_times(step_plan_, times_)) {
    for (const double field : {static_cast<double>(s.rank), static_cast<double>(s.replica),
                               static_cast<double>(s.stage), s.forward_s, s.input_grad_s,
                               s.weight_grad_s, s.wait_s, static_cast<double>(s.micro_batches)}) {
      mine.push_back(field);
    }
  }
  StepObservation seen{step.step, step.step_s, step.pipeline_s, {}, {}};
  seen.memory_bytes.assign(static_cast<std::size_t>(config_.parallel.pipeline), 0.0);
  for (const auto& row : cluster_.world().gather(std::span<const double>(mine))) {
    double& memory = seen.memory_bytes[static_cast<std::size_t>(row[0])];
    memory = std::max(memory, row[1]);
    for (std::size_t i = 2; i + kFields <= row.size(); i += kFields) {
      add_slower(seen.stages, {static_cast<int>(row[i]), static_cast<int>(row[i + 1]),
                               static_cast<int>(row[i + 2]), row[i + 3], row[i + 4], row[i + 5],
                               row[i + 6], static_cast<int>(row[i + 7])});
    }
  }
  return seen;
}

void Trainer::Impl::rebalance(TrainReport& report) {
  const StepObservation seen = observe(report.steps.back());
  std::optional<Decision> decision;
  if (cluster_.rank() == 0) decision = balancer_->after_step(seen);
  const std::string bytes =
      cluster_.world().broadcast(decision ? to_bytes(decision->plan) : std::string(), 0);
  if (bytes.empty()) return;
  const PipelinePlan to = plan_of(bytes);
  DecisionReport told;
  told.step = seen.step;
  told.partition = to.partition.first;
  told.ranks = to.ranks;
  told.micro_batches = to.micro_batches;
  const double start_s = now_s();
  told.refusal = change_plan(to, told);
  told.applied = told.refusal.empty();
  told.migration_s = cluster_.world().allreduce_max(now_s() - start_s, "migration time");
  if (decision) {
    told.kind = decision->kind;
    told.reason = decision->reason;
    told.present_step_s = decision->present_step_s;
    told.expected_step_s = decision->expected_step_s;
    told.expected_cost_s = decision->expected_cost_s;
    if (told.applied) {
      balancer_->applied(*decision, told.migration_s);
    } else {
      balancer_->refused(*decision, told.refusal);
    }
  }
  report.decisions.push_back(std::move(told));
}

void Trainer::Impl::set_pace(std::int64_t step) {
  if (!paced_) return;
  pace_cost_ =
      pace_->cost_model(config_.parallel.pipeline, plan_.partition, plan_.shape.sequences, step);
  pacer_->set_cost(pace_cost_);
  kept_.clear();  // the prediction beside the timeline is of one pace
}

/// What knows the old plan's memory and placement goes before it does.
void Trainer::Impl::make_links() {
  executor_.reset();
  sync_.reset();
  if (links_->chosen() != "mpi") {
    transport_.reset();
    links_ = std::make_unique<DeviceLinks>(cluster_, config_.device, *ops_, paced_);
    transport_ = links_->make_transport(grid_.pipeline, transport_options());
  }
  sync_ = std::make_unique<GradientSync>(cluster_, grid_, plan_.schedule.placement,
                                         config_.model.tied, links_.get());
}

void Trainer::Impl::swap_in(RunPlan& plan, ExecutorPlan& step, ExecutorPlan& forward) {
  std::swap(plan_, plan);
  std::swap(step_plan_, step);
  std::swap(forward_plan_, forward);
}

std::string Trainer::Impl::change_plan(const PipelinePlan& to, DecisionReport& told) {
  RunPlan plan;
  try {
    plan = change_run_plan(config_, to);
  } catch (const UserError& error) {
    return error.what();  // the same on every rank
  }
  ExecutorPlan step = plan_step(plan.schedule, grid_.pipeline_rank);
  ExecutorPlan forward =
      plan_forward(plan.schedule.placement, plan.shape.micro_batches, grid_.pipeline_rank);
  swap_in(plan, step, forward);
  std::unique_ptr<Pieces> old;
  try {
    old = make_pieces();
  } catch (const EnvironmentError& error) {
    swap_in(plan, step, forward);
    return error.what();
  }
  std::swap(pieces_, old);
  // By MPI whatever carries the steps: these messages are of this moment only.
  TransportMpi carrier(grid_.pipeline, ops_->device(), transport_options());
  const std::int64_t sent =
      migrate(config_.model, ops_->device(), stream_, &carrier, grid_.pipeline_rank,
              {plan, old->stages}, {plan_, pieces_->stages});
  told.moved_bytes = static_cast<std::int64_t>(
      cluster_.world().allreduce_sum(static_cast<double>(sent), "moved bytes"));
  make_links();
  make_executor();
  kept_.clear();
  predicted_peak_live_ = std::max(predicted_peak_live_, step_plan_.peak_live);
  set_pace(told.step + 1);
  return {};
}

}  // namespace pipemark
