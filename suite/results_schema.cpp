// The columns of every table of a result file, with their units. A change here is a change of
// kSchemaVersion.
#include "suite/results.hpp"

namespace pipemark {

namespace {
constexpr std::size_t kUuid = 40, kName = 32, kPath = 128, kText = 512;
// h5py reads longer fixed text too, but a row of a compound with it is heavy: one text a run only.
constexpr std::size_t kConfiguration = 4096;
}  // namespace

const std::vector<Column<RunRow>>& run_columns() {
  using R = RunRow;
  static const std::vector<Column<R>> columns = {
      {"run", "1", &R::run},
      {"uuid", "", &R::uuid, kUuid},
      {"created", "UTC", &R::created, kName},
      {"fingerprint", "", &R::fingerprint, kName},
      {"role", "", &R::role, kName},
      {"cell", "1", &R::cell},
      {"repetition", "1", &R::repetition},
      {"factors", "", &R::factors, kText},
      {"schedule", "", &R::schedule, kPath},
      {"balancer", "", &R::balancer, kName},
      {"backend", "", &R::backend, kName},
      {"transport", "", &R::transport, kName},
      {"ranks", "1", &R::ranks},
      {"pipeline", "1", &R::pipeline},
      {"data", "1", &R::data},
      {"expert", "1", &R::expert},
      {"micro_batches", "1", &R::micro_batches},
      {"stages", "1", &R::stages},
      {"preset", "", &R::preset, kName},
      {"layers", "1", &R::layers},
      {"channels", "1", &R::channels},
      {"heads", "1", &R::heads},
      {"context", "token", &R::context},
      {"vocabulary", "token", &R::vocabulary},
      {"parameters", "1", &R::parameters},
      {"tokens_per_step", "token", &R::tokens_per_step},
      {"steps", "1", &R::steps},
      {"steps_done", "1", &R::steps_done},
      {"seed", "1", &R::seed},
      {"evidence", "", &R::evidence, kName},
      {"ranks_per_core", "1", &R::ranks_per_core},
      {"valid", "", &R::valid},
      {"invalid_reason", "", &R::invalid_reason, kText},
      {"complete", "", &R::complete},
      {"failure", "", &R::failure, kText},
      {"stopped_by", "", &R::stopped_by, kName},
      {"median_step_s", "s", &R::median_step_s},
      {"ci_low_s", "s", &R::ci_low_s},
      {"ci_high_s", "s", &R::ci_high_s},
      {"confidence", "1", &R::confidence},
      {"tokens_per_s", "token/s", &R::tokens_per_s},
      {"model_flops_per_s", "FLOP/s", &R::model_flops_per_s},
      {"mfu", "1", &R::mfu},
      {"makespan_s", "s", &R::makespan_s},
      {"bubble_ratio", "1", &R::bubble_ratio},
      {"span_bubble_rate", "1", &R::span_bubble_rate},
      {"predicted_makespan_s", "s", &R::predicted_makespan_s},
      {"predicted_bubble_ratio", "1", &R::predicted_bubble_ratio},
      {"makespan_error", "1", &R::makespan_error},
      {"bubble_ratio_error", "1", &R::bubble_ratio_error},
      {"idle_fill_drain", "1", &R::idle_fill_drain},
      {"idle_imbalance", "1", &R::idle_imbalance},
      {"idle_exposed_communication", "1", &R::idle_exposed_communication},
      {"idle_overhead", "1", &R::idle_overhead},
      {"overruns", "1", &R::overruns},
      {"first_loss", "nat/token", &R::first_loss},
      {"last_loss", "nat/token", &R::last_loss},
      {"validation_loss", "nat/token", &R::validation_loss},
      {"bigram_validation_loss", "nat/token", &R::bigram_validation_loss},
      {"reference_run", "1", &R::reference_run},
      {"loss_tolerance", "1", &R::loss_tolerance},
      {"reference_loss_error", "1", &R::reference_loss_error},
      {"peak_arena_bytes", "B", &R::peak_arena_bytes},
      {"peak_resident_bytes", "B", &R::peak_resident_bytes},
      {"peak_live", "1", &R::peak_live},
  };
  return columns;
}

const std::vector<Column<SampleRow>>& sample_columns() {
  using R = SampleRow;
  static const std::vector<Column<R>> columns = {{"run", "1", &R::run},
                                                 {"step", "1", &R::step},
                                                 {"metric", "", &R::metric, kName},
                                                 {"value", "by metric", &R::value},
                                                 {"warmup", "", &R::warmup}};
  return columns;
}

const std::vector<Column<TimelineRow>>& timeline_columns() {
  using R = TimelineRow;
  static const std::vector<Column<R>> columns = {
      {"rank", "1", &R::rank},       {"action", "", &R::action, kName},
      {"replica", "1", &R::replica}, {"replica_b", "1", &R::replica_b},
      {"start_s", "s", &R::start_s}, {"end_s", "s", &R::end_s},
      {"wait_s", "s", &R::wait_s}};
  return columns;
}

const std::vector<Column<IdleRow>>& idle_columns() {
  using R = IdleRow;
  static const std::vector<Column<R>> columns = {
      {"rank", "1", &R::rank},
      {"busy_s", "s", &R::busy_s},
      {"fill_drain", "1", &R::fill_drain},
      {"imbalance", "1", &R::imbalance},
      {"exposed_communication", "1", &R::exposed_communication},
      {"overhead", "1", &R::overhead}};
  return columns;
}

const std::vector<Column<LossRow>>& loss_columns() {
  static const std::vector<Column<LossRow>> columns = {{"step", "1", &LossRow::step},
                                                       {"loss", "nat/token", &LossRow::loss}};
  return columns;
}

const std::vector<Column<MemoryRow>>& memory_columns() {
  using R = MemoryRow;
  static const std::vector<Column<R>> columns = {
      {"rank", "1", &R::rank},
      {"host", "", &R::host, kPath},
      {"device", "", &R::device, kPath},
      {"arena_bytes", "B", &R::arena_bytes},
      {"peak_resident_bytes", "B", &R::peak_resident_bytes},
      {"parameters", "1", &R::parameters},
      {"peak_live", "1", &R::peak_live},
      {"predicted_peak_live", "1", &R::predicted_peak_live}};
  return columns;
}

const std::vector<Column<LayerRow>>& layer_columns() {
  using R = LayerRow;
  static const std::vector<Column<R>> columns = {{"layer", "1", &R::layer},
                                                 {"stage", "1", &R::stage},
                                                 {"name", "", &R::name, kName},
                                                 {"parameters", "1", &R::parameters},
                                                 {"forward_s", "s", &R::forward_s},
                                                 {"input_grad_s", "s", &R::input_grad_s},
                                                 {"weight_grad_s", "s", &R::weight_grad_s}};
  return columns;
}

const std::vector<Column<DecisionRow>>& decision_columns() {
  using R = DecisionRow;
  static const std::vector<Column<R>> columns = {{"step", "1", &R::step},
                                                 {"kind", "", &R::kind, kName},
                                                 {"reason", "", &R::reason, kText},
                                                 {"partition", "", &R::partition, kText},
                                                 {"ranks", "", &R::ranks, kText},
                                                 {"micro_batches", "1", &R::micro_batches},
                                                 {"present_step_s", "s", &R::present_step_s},
                                                 {"expected_step_s", "s", &R::expected_step_s},
                                                 {"expected_cost_s", "s", &R::expected_cost_s},
                                                 {"applied", "", &R::applied},
                                                 {"refusal", "", &R::refusal, kText},
                                                 {"migration_s", "s", &R::migration_s},
                                                 {"moved_bytes", "B", &R::moved_bytes}};
  return columns;
}

const std::vector<Column<ConfigurationRow>>& configuration_columns() {
  using R = ConfigurationRow;
  static const std::vector<Column<R>> columns = {{"run", "1", &R::run},
                                                 {"toml", "", &R::toml, kConfiguration}};
  return columns;
}

const std::vector<SampleMetric>& sample_metrics() {
  static const std::vector<SampleMetric> metrics = {
      {"loss", "nat/token", false},
      {"gradient_norm", "1", false},
      {"learning_rate", "1", false},
      {"step_s", "s", false},
      {"pipeline_s", "s", false},
      {"optimizer_s", "s", false},
      {"bubble_ratio", "1", false},
      {"span_bubble_rate", "1", false},
      {"overruns", "1", false},
      {"host_overhead_s", "s", false},
      {"exchange_exposed_s", "s", true},
      {"exchange_flight_s", "s", true},
      {"expert_imbalance", "1", true},
      {"expert_moved_bytes", "B", true},
      {"expert_move_s", "s", true}};
  return metrics;
}

}  // namespace pipemark
