// The tiny model with every head there is, and derivatives of its losses along one direction of all its parameters.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/support/tiny_model.h"

namespace qat::test {

// In chunks, on codes in chunks, and operator by operator.
enum class Head { kPlain, kCodes, kOperators };

inline TinyModel model_with(Head head) {
  TinyModel tiny;
  tiny.config.quantize_lm_head = head != Head::kPlain;
  if (head == Head::kOperators) tiny.quant.weight.method = QuantizerKind::kLog;
  tiny.build();
  tiny.randomize();
  return tiny;
}

inline auto all_heads() { return ::testing::Values(Head::kPlain, Head::kCodes, Head::kOperators); }
inline std::string head_name(const ::testing::TestParamInfo<Head>& info) {
  return info.param == Head::kPlain ? "Plain" : info.param == Head::kCodes ? "Codes" : "Operators";
}

// A random direction of all trainable parameters, drawn after torch::manual_seed.
class Direction {
 public:
  explicit Direction(const TinyModel& tiny) : parameters_(tiny.model->parameters().trainable_tensors()) {
    for (const at::Tensor& parameter : parameters_) direction_.push_back(at::randn(parameter.sizes()));
  }
  // What the gradients say of it.
  double slope(const std::vector<at::Tensor>& gradients) const {
    double sum = 0.0;
    for (std::size_t i = 0; i < direction_.size(); ++i)
      if (gradients[i].defined()) sum += (gradients[i] * direction_[i]).sum().item<double>();
    return sum;
  }
  // The central difference over 2 t.
  double difference(double t, const std::function<double()>& loss) const {
    const auto at_distance = [&](double distance) {
      move(distance);
      const double there = loss();
      move(-distance);
      return there;
    };
    return (at_distance(t) - at_distance(-t)) / (2 * t);
  }

 private:
  void move(double distance) const {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < direction_.size(); ++i) at::Tensor(parameters_[i]).add_(direction_[i], distance);
  }

  const std::vector<at::Tensor>& parameters_;
  std::vector<at::Tensor> direction_;
};

}  // namespace qat::test
