// Trainer::Impl: the parts of a run and the order they are made in. trainer.cpp makes and joins
// them; trainer_step.cpp runs a step; trainer_change.cpp changes the pipeline between steps;
// trainer_report.cpp tells what happened.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "kernels/ops.hpp"
#include "trainer/cluster.hpp"
#include "trainer/data.hpp"
#include "trainer/device_links.hpp"
#include "trainer/executor.hpp"
#include "trainer/expert_exchange.hpp"
#include "trainer/gradient_sync.hpp"
#include "trainer/optimizer.hpp"
#include "trainer/run_plan.hpp"
#include "trainer/trainer.hpp"

namespace pipemark {

class Trainer::Impl {
 public:
  Impl(Cluster& cluster, const RunConfig& config, const PaceProfile* pace,
       RunningBalancer* balancer);

  ~Impl();
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  TrainReport fit(const StepCallback& after_step);
  std::vector<NamedTensor> gradients_of_step(std::int64_t step);

 private:
  /// What lies in an arena; made twice, planned and real. Stays where it is: stages refer to the
  /// scratch.
  struct Pieces {
    Arena arena;
    GptScratch scratch;
    MoeScratch moe_scratch;                         ///< empty without experts
    std::vector<std::unique_ptr<GptStage>> stages;  ///< by held_by(pipeline rank)
    std::vector<std::unique_ptr<Optimizer>> optimizers;
    std::vector<Tensor> buffers;
  };
  /// Tokens and targets of a step, in page-locked host memory; two, so that the next step's are
  /// fetched while the device still reads this one's.
  struct BatchRoom {
    Tensor tokens, targets;  ///< [M, B, T] i32
    std::int64_t step = -1;  ///< of the training batch that lies here
  };
  /// One step as this rank saw it; kept to choose the step whose timeline is shown.
  struct KeptStep {
    std::int64_t step;
    double step_s;
    ActionTimes times;
  };

  // trainer.cpp
  void make_exchange(const PaceProfile* pace);
  std::vector<LayerCost> find_layer_costs(const RunConfig& config, const PaceProfile* pace);
  std::vector<StageCost> find_fixed_costs(const RunConfig& config,
                                          const std::vector<LayerCost>& costs);
  void make_pipeline(const PaceProfile* pace);
  TransportMpi::Options transport_options(bool paced = false) const;
  void make_host_rooms();
  std::string label_device();             ///< collective
  std::unique_ptr<Pieces> make_pieces();  ///< collective
  void make_executor();
  void make_balancer(const PaceProfile* pace);  ///< collective; where the configuration names one
  bool owns(std::size_t held) const;  ///< this rank speaks for the stage: replica 0, data rank 0

  // trainer_memory.cpp
  struct Layout {
    const RunPlan& plan;
    const ExecutorPlan &step, &forward;
  };
  void build(const Layout& layout, Arena& arena, Pieces& pieces);
  bool scratch_in_logits(const Layout& layout) const;
  std::size_t bytes_of(const RunConfig& config);
  std::string what_would_fit(std::size_t free_bytes);
  /// Throws EnvironmentError with the bytes, the largest tensor and what would fit.
  void check_fits(const Arena& planned);

  // trainer_experts.cpp
  bool has_experts() const { return config_.model.has_experts(); }
  /// All sums over ranks of a step's gradients and loads.
  void sum_gradients();
  /// Counts the step's loads, and moves experts where the step ends an interval.
  void balance_experts(StepReport& report);
  /// Data of its own: a rank of the data or the expert dimension.
  int feeder() const { return grid_.data_rank * config_.parallel.expert + grid_.expert_rank; }
  int feeders() const { return config_.parallel.data * config_.parallel.expert; }

  // trainer_step.cpp
  BatchRoom& fetch_batch(std::int64_t step, bool validation);
  void load_batch(std::int64_t step, bool validation);
  StepReport train_step(std::int64_t step);
  void run_gradients(std::int64_t step);
  /// Losses and squared norms of all ranks in one sum; returns {loss, gradient norm}.
  std::pair<double, double> reduce_loss_and_norm();
  /// One stage on one rank is the whole model: norm, clipping and AdamW are enqueued behind the
  /// step's actions, and the host waits once, for everything.
  void enqueue_update_alone();
  void report_alone(StepReport& report);
  void measure_step(StepReport& report, double step_s, double optimizer_s);
  double validate_model();
  void keep_step(const StepReport& report);

  // trainer_change.cpp
  /// Asks the balancer after a step and does what it says; collective.
  void rebalance(TrainReport& report);
  StepObservation observe(const StepReport& step);
  /// Layers move, the pipeline is built anew; or nothing changes and the reason is given.
  std::string change_plan(const PipelinePlan& to, DecisionReport& told);
  /// The pace of `step` under the present plan, where there is one.
  void set_pace(std::int64_t step);
  void make_links();
  void swap_in(RunPlan& plan, ExecutorPlan& step, ExecutorPlan& forward);

  // trainer_report.cpp
  TrainReport start_report();
  void finish_report(TrainReport& report);
  void judge(TrainReport& report) const;
  void add_timeline(TrainReport& report);
  void add_rank_reports(TrainReport& report);
  void add_rates(TrainReport& report) const;
  std::int64_t median_step(const TrainReport& report) const;

  Cluster& cluster_;
  RunningBalancer* balancer_;  ///< asked on rank 0
  std::unique_ptr<RunningBalancer> own_balancer_;
  bool balancing_ = false;  ///< the same on every rank
  RunConfig config_;
  std::unique_ptr<Ops> ops_;
  Grid grid_;
  Dataset data_;
  std::vector<double> rank_speeds_;     ///< by pipeline rank, where layers were measured
  std::vector<StageCost> fixed_costs_;  ///< measured for the elastic balancer; before layer_costs_
  std::vector<LayerCost> layer_costs_;
  RunPlan plan_;
  ExecutorPlan step_plan_, forward_plan_;
  std::unique_ptr<Pieces> pieces_;
  std::vector<bool> stage_done_;  ///< by held stage: its gradients' sum has begun in this step
  std::string device_label_;      ///< of this rank, for the record
  std::unique_ptr<DeviceLinks> links_;
  std::unique_ptr<GradientSync> sync_;
  std::optional<PaceProfile> pace_;
  CostModel pace_cost_;
  bool paced_ = false;
  std::unique_ptr<Pacer> pacer_;
  std::unique_ptr<Transport> transport_;
  ExpertGroup expert_group_;
  std::unique_ptr<ExpertExchange> exchange_;
  std::vector<std::vector<std::vector<double>>> interval_loads_;  ///< [held][block][expert]
  std::unique_ptr<Executor> executor_;
  Stream stream_;
  double message_s_ = 0, clock_offset_s_ = 0;
  int model_tensors_ = 0;

  Arena host_arena_;
  BatchRoom batch_rooms_[2];
  Tensor host_losses_, host_norm_;  ///< where enqueue_update_alone() copies to
  bool alone_ = false, updating_ = false;
  std::int64_t step_ = 0;
  Event update_begin_, update_end_;
  ActionTimes times_;
  std::vector<KeptStep> kept_;
  int peak_live_ = 0, predicted_peak_live_ = 0;  ///< over all plans of the run
  std::int64_t actions_ = 0, overruns_ = 0;      ///< of all ranks, paced
};

}  // namespace pipemark
