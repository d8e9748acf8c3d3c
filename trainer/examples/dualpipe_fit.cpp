// Trains a small GPT on a text file under DualPipe: mpirun -n 2 dualpipe_fit TEXT [STEPS]
#include <cstdio>
#include <cstdlib>

#include "kernels/check.hpp"
#include "trainer/dualpipe_trainer.hpp"

int main(int argc, char** argv) {
  using namespace pipemark;
  if (argc < 2) {
    std::fprintf(stderr, "usage: mpirun -n 2 %s TEXT [STEPS]\n", argv[0]);
    return 2;
  }
  try {
    const ModelConfig model = ModelConfig::from_preset("tiny");
    const DualPipe::Config config{.stages = 2, .micro_batch_size = 2};
    const EPLBScheduler scheduler({{0, {.flops = 150e9, .mem_bandwidth = 20e9}},
                                   {1, {.flops = 150e9, .mem_bandwidth = 20e9}}});
    DualPipeTrainer trainer(model, config, scheduler);
    const TrainReport report =
        trainer.data(argv[1]).steps(argc > 2 ? std::atoi(argv[2]) : 50).learning_rate(2e-3).fit();
    if (!report.rank_reports.empty()) {  // whole on rank 0
      std::printf("loss %.3f -> %.3f, validation %.3f, bubble_ratio %.3f (%s)\n",
                  report.steps.front().loss, report.steps.back().loss, report.validation_loss,
                  report.steps.back().bubble_ratio, to_string(report.evidence).c_str());
    }
  } catch (const UserError& error) {
    std::fprintf(stderr, "error: %s\nhint: %s\n", error.what(), error.hint().c_str());
    return 2;
  }
  return 0;
}
