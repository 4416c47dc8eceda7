// What an autograd function keeps for backward beside tensors. It is taken out there, so that its memory is free as
// soon as it is used. Sees LibTorch's large headers: for source files.
#pragma once

#include <torch/torch.h>

#include <utility>

namespace qat {

template <typename T>
struct KeptForBackward : torch::CustomClassHolder {
  explicit KeptForBackward(T value_in) : value(std::move(value_in)) {}
  T value;
};

template <typename T>
void keep(torch::autograd::AutogradContext* ctx, T value) {
  ctx->saved_data["kept"] = c10::IValue::make_capsule(c10::make_intrusive<KeptForBackward<T>>(std::move(value)));
}

template <typename T>
T take(torch::autograd::AutogradContext* ctx) {
  const auto kept = c10::static_intrusive_pointer_cast<KeptForBackward<T>>(ctx->saved_data["kept"].toCapsule());
  return std::move(kept->value);
}

}  // namespace qat
