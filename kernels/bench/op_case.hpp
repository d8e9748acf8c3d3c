// An OpCase is one operation at one shape: its tensors, how they are filled, the call, the cost and
// the bound its result must keep against the reference. The tests and the benchmark run the same
// cases on any backend:  reference fills and computes -> the backend gets the same inputs, rounded
// to its own types -> outputs are compared.
//
//   error = max |got - right| / rms(right),  bound = kSafety condition (u_act + u_fp32 sqrt(terms))
//
// with u the unit roundoff of what is stored (u_act of activations) and of fp32 sums of `terms`
// random terms, whose error grows as sqrt(terms); kSafety covers the maximum over many elements (5
// standard deviations) and the few roundings of one element.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/arena.hpp"
#include "kernels/op_cost.hpp"
#include "kernels/ops.hpp"

namespace pipemark {

inline constexpr double kSafety = 8;
inline constexpr double kUnitRoundoffFp32 = 5.9604644775390625e-08;  // 2^-24
inline constexpr double kUnitRoundoffBf16 = 3.90625e-03;             // 2^-8

/// activation: the backend's activation dtype.
enum class Storage : std::uint8_t { activation, fp32, int32 };
enum class Role : std::uint8_t { input, output, in_out };

struct TensorSpec {
  std::string label;
  std::int64_t count = 0;
  Storage storage = Storage::activation;
  Role role = Role::input;
  double scale = 1;  ///< standard deviation of a float input, exclusive limit of an int32 one
  double mean = 0;
};

struct CaseShape {
  int batch = 2, tokens = 8, channels = 16, heads = 2, vocabulary = 11, vocabulary_padded = 16;
  int hidden = 64;  ///< width of the MLP
  std::int64_t rows() const { return std::int64_t{batch} * tokens; }
};

struct OpCase {
  std::string name;
  std::vector<TensorSpec> tensors = {};
  /// Fills what depends on other inputs (mean, rstd, lse) by the reference; may be empty.
  std::function<void(Ops&, std::vector<Tensor>&)> prepare = {};
  std::function<void(Ops&, std::vector<Tensor>&)> call;
  op_cost::OpCost cost = {};  ///< for fp32 activations, or bf16 ones when made so
  double terms = 1;           ///< of the longest sum behind an output
  /// How far an output is more sensitive than a plain sum. Attention: exp turns the absolute error
  /// of a score and of lse, both up to about 8 here, into a relative one of P; and early keys'
  /// gradients, summed over all queries, lie far above the rms.
  double condition = 1;
  AttentionShape attention = {};
  int vocabulary_padded = 0;
};

/// Every operation of Ops at `shape`; `activation_bytes` is for the cost.
std::vector<OpCase> all_cases(const CaseShape& shape, double activation_bytes);

/// Of them, those of a mixture of experts.
void add_moe_cases(std::vector<OpCase>& cases, const CaseShape& shape, double activation_bytes);

/// The bound of the header for a case on a backend of that activation type.
double error_bound(const OpCase& op, DType activation);

/// An OpCase on one backend: tensors in the backend's memory.
class CaseRun {
 public:
  CaseRun(const OpCase& op, Ops& backend);
  /// Puts the inputs of in_out tensors back.
  void reset();
  void call();
  /// `index` of op.tensors as floats.
  std::vector<float> download(std::size_t index);
  /// The largest error of any output against the reference; `where` names the tensor. Calls.
  double error(std::string* where = nullptr);
  std::vector<Tensor>& tensors() { return tensors_; }
  /// What the reference computed, by tensor.
  const std::vector<std::vector<float>>& expected() const { return expected_; }

 private:
  void upload(std::size_t index, const std::vector<float>& values);

  OpCase op_;
  Ops& ops_;
  Arena arena_, staging_;
  Tensor stage_;
  std::vector<Tensor> tensors_;
  std::vector<std::vector<float>> inputs_, expected_;
};

/// max |got - right| / rms(right).
double relative_error(const std::vector<float>& got, const std::vector<float>& right);

}  // namespace pipemark
