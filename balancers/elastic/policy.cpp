// Weights lie flat: W1 [kHidden, kFeatures], b1 [kHidden], w2 [kHidden], b2.
#include "balancers/elastic/policy.hpp"

#include <algorithm>
#include <cmath>
#include <random>
#include <sstream>

#include "balancers/elastic/shipped_policy.hpp"
#include "kernels/check.hpp"

namespace pipemark {

namespace {
constexpr int kBias1 = kHidden * kFeatures, kOut = kBias1 + kHidden, kBias2 = kOut + kHidden;
/// Huber's: quadratic below, linear above; of asinh(steps).
constexpr double kDelta = 1;

double huber(double error) {
  const double size = std::abs(error);
  return size < kDelta ? error * error / 2 : kDelta * (size - kDelta / 2);
}
}  // namespace

Features features_of(const CandidateView& view) {
  constexpr double kHorizon = 100;  // steps that a change is judged over
  const double lasting = std::min(view.remaining, kHorizon);
  const double promised = view.gain * lasting;
  return {10 * view.gain,
          std::asinh(promised),
          std::asinh(view.cost_steps),
          std::asinh(promised - view.cost_steps),
          std::log1p(view.remaining) / 5,
          std::clamp(view.gain / std::max(1e-6, view.gain_error), -10.0, 10.0) / 5,
          10 * view.gain_error,
          10 * view.noise,
          std::log1p(view.since_change) / 5,
          std::log1p(view.since_move) / 5,
          view.layers_moved,
          (view.evicts ? 1.0 : 0.0) + (view.changes_micro_batches ? 0.5 : 0.0)};
}

Policy::Policy(std::uint64_t seed) : w_(kWeights), m_(kWeights), v_(kWeights) {
  std::mt19937_64 random(seed);
  const auto uniform = [&] { return 2 * static_cast<double>(random() >> 11) * 0x1p-53 - 1; };
  for (int i = 0; i < kBias1; ++i)
    w_[static_cast<std::size_t>(i)] = uniform() / std::sqrt(kFeatures);
  for (int i = kOut; i < kBias2; ++i)
    w_[static_cast<std::size_t>(i)] = uniform() / std::sqrt(kHidden);
}

Policy Policy::shipped() {
  static const Policy policy = parse(kShippedPolicy, "the shipped policy");
  return policy;
}

Policy Policy::parse(const std::string& text, const std::string& origin) {
  Policy policy(0);
  std::istringstream in(text);
  std::size_t count = 0;
  for (std::string line; std::getline(in, line);) {
    if (line.rfind('#', 0) == 0) {
      policy.history.push_back(line.substr(std::min<std::size_t>(2, line.size())));
      continue;
    }
    std::istringstream numbers(line);
    for (std::string word; numbers >> word; ++count) {
      char* end = nullptr;
      const double value = std::strtod(word.c_str(), &end);
      if (*end != '\0' || !std::isfinite(value)) {
        throw UserError(fmt::format("{}: \"{}\" is not a weight", origin, word),
                        "pipemark balance train writes such a file");
      }
      if (count < policy.w_.size()) policy.w_[count] = value;
    }
  }
  if (count != policy.w_.size()) {
    throw UserError(fmt::format("{}: {} weights instead of {}", origin, count, policy.w_.size()),
                    "pipemark balance train writes such a file");
  }
  return policy;
}

std::string Policy::text() const {
  std::string text;
  for (const std::string& line : history) text += "# " + line + "\n";
  for (std::size_t i = 0; i < w_.size(); ++i) {
    text += fmt::format("{:.7g}{}", w_[i], (i + 1) % kFeatures == 0 ? "\n" : " ");
  }
  return text + "\n";
}

double Policy::output(const Features& x, std::array<double, kHidden>& hidden) const {
  double out = w_[kBias2];
  for (int h = 0; h < kHidden; ++h) {
    double sum = w_[static_cast<std::size_t>(kBias1 + h)];
    const double* row = w_.data() + h * kFeatures;
    for (int f = 0; f < kFeatures; ++f) sum += row[f] * x[static_cast<std::size_t>(f)];
    hidden[static_cast<std::size_t>(h)] = std::tanh(sum);
    out += w_[static_cast<std::size_t>(kOut + h)] * hidden[static_cast<std::size_t>(h)];
  }
  return out;
}

double Policy::saving(const Features& x) const {
  std::array<double, kHidden> hidden;
  return std::sinh(std::clamp(output(x, hidden), -20.0, 20.0));
}

double Policy::loss(const std::vector<Sample>& samples) const {
  std::array<double, kHidden> hidden;
  double sum = 0;
  for (const Sample& sample : samples) {
    sum += huber(output(sample.x, hidden) - std::asinh(sample.saving));
  }
  return samples.empty() ? 0 : sum / static_cast<double>(samples.size());
}

double Policy::learn(const std::vector<Sample>& batch, double learning_rate) {
  constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
  std::vector<double> gradient(w_.size(), 0.0);
  std::array<double, kHidden> hidden;
  double loss = 0;
  for (const Sample& sample : batch) {
    const double error = output(sample.x, hidden) - std::asinh(sample.saving);
    loss += huber(error);
    const double d = std::clamp(error, -kDelta, kDelta) / static_cast<double>(batch.size());
    gradient[kBias2] += d;
    for (int h = 0; h < kHidden; ++h) {
      const double active = hidden[static_cast<std::size_t>(h)];
      gradient[static_cast<std::size_t>(kOut + h)] += d * active;
      const double dh = d * w_[static_cast<std::size_t>(kOut + h)] * (1 - active * active);
      gradient[static_cast<std::size_t>(kBias1 + h)] += dh;
      for (int f = 0; f < kFeatures; ++f) {
        gradient[static_cast<std::size_t>(h * kFeatures + f)] +=
            dh * sample.x[static_cast<std::size_t>(f)];
      }
    }
  }
  ++updates_;
  const double scale1 = 1 - std::pow(kBeta1, static_cast<double>(updates_));
  const double scale2 = 1 - std::pow(kBeta2, static_cast<double>(updates_));
  for (std::size_t i = 0; i < w_.size(); ++i) {
    m_[i] += (1 - kBeta1) * (gradient[i] - m_[i]);
    v_[i] += (1 - kBeta2) * (gradient[i] * gradient[i] - v_[i]);
    w_[i] -= learning_rate * (m_[i] / scale1) / (std::sqrt(v_[i] / scale2) + kEpsilon);
  }
  return batch.empty() ? 0 : loss / static_cast<double>(batch.size());
}

}  // namespace pipemark
