// The operations are those of trainer/layers/*.cpp, call by call.
#include "trainer/time_model.hpp"

#include "kernels/op_cost.hpp"
#include "trainer/layers/layer.hpp"
#include "trainer/run_plan.hpp"

namespace pipemark {

namespace {

class LayerTimes {
 public:
  LayerTimes(const Fingerprint& device, const std::string& precision, double act,
             const LayerShape& shape)
      : device_(device), precision_(precision), act_(act), shape_(shape) {}

  void block(LayerCost& cost) const {
    const int C = shape_.channels;
    const double gelu_forward = op("gelu_forward", op_cost::gelu_forward(4 * NC(), act_));
    const double gelu_backward = op("gelu_backward", op_cost::gelu_backward(4 * NC(), act_));
    const double products = linear(C, 3 * C) + linear(C, C) + linear(C, 4 * C) + linear(4 * C, C);
    cost.forward_s =
        2 * op("layer_norm_forward", op_cost::residual_layer_norm_forward(shape_.rows(), C, act_)) +
        products + gelu_forward +
        op("attention_forward", op_cost::attention_forward(shape_.attention(), act_));
    cost.input_grad_s =
        products + gelu_backward +
        2 * op("layer_norm_backward", op_cost::layer_norm_backward(shape_.rows(), C, act_)) +
        op("attention_backward", op_cost::attention_backward(shape_.attention(), act_));
    cost.weight_grad_s = products + gradients(12.0 * C * C);
  }

  void embedding(LayerCost& cost) const {
    cost.forward_s =
        op("embedding_forward", op_cost::embedding_forward(shape_.rows(), shape_.channels, act_));
    cost.weight_grad_s =
        op("embedding_backward", op_cost::embedding_backward(shape_.rows(), shape_.channels, act_));
  }

  void head(LayerCost& cost) const {
    const int C = shape_.channels, Vp = shape_.vocabulary_padded;
    const double product = linear(C, Vp);
    cost.forward_s =
        op("layer_norm_forward", op_cost::residual_layer_norm_forward(shape_.rows(), C, act_)) +
        product +
        op("softmax_cross_entropy", op_cost::softmax_cross_entropy(shape_.rows(), Vp, act_));
    cost.input_grad_s =
        product + op("layer_norm_backward", op_cost::layer_norm_backward(shape_.rows(), C, act_));
    cost.weight_grad_s = product + gradients(static_cast<double>(C) * Vp);
  }

 private:
  std::int64_t NC() const { return shape_.elements(); }
  double op(const char* name, const op_cost::OpCost& cost) const {
    return device_.op_s(name, cost.flops, cost.bytes);
  }
  double linear(int in, int out) const {
    const LinearShape shape{shape_.rows(), in, out};
    return device_.gemm_s(precision_, static_cast<double>(shape.rows), in, out,
                          op_cost::linear_forward(shape, act_).bytes);
  }
  /// Gradients of weights are fp32 and added to: read and written beside the product.
  double gradients(double count) const {
    return device_.memory_bytes_per_s > 0 ? 2 * op_cost::kFp32 * count / device_.memory_bytes_per_s
                                          : 0;
  }

  const Fingerprint& device_;
  const std::string& precision_;
  double act_;
  LayerShape shape_;
};
}  // namespace

std::vector<LayerCost> predict_layer_times(const Fingerprint& device, const std::string& precision,
                                           double act_bytes, const ModelConfig& model,
                                           int sequences) {
  std::vector<LayerCost> layers = layer_parameter_costs(model);
  const LayerTimes times(device, precision, act_bytes, LayerShape(model, sequences));
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    if (layer == 0) {
      times.embedding(layers[layer]);
    } else if (layer + 1 == layers.size()) {
      times.head(layers[layer]);
    } else {
      times.block(layers[layer]);
    }
  }
  return layers;
}

}  // namespace pipemark
