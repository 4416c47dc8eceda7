#include "src/model/recompute.h"

#include <torch/torch.h>

#include "kernels/common/error.h"

namespace qat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

struct HeldSegment : torch::CustomClassHolder {
  explicit HeldSegment(Segment segment_in) : segment(std::move(segment_in)) {}
  Segment segment;
};

// The same values at the start of a graph of their own.
tensor_list cut_off(at::TensorList tensors) {
  tensor_list out;
  for (const at::Tensor& t : tensors) out.push_back(t.detach().requires_grad_(t.requires_grad()));
  return out;
}

class RecomputedSegment : public torch::autograd::Function<RecomputedSegment> {
 public:
  static tensor_list forward(AutogradContext* ctx, at::TensorList inputs, at::TensorList parameters,
                             const Segment& segment) {
    tensor_list saved = inputs.vec();
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    ctx->save_for_backward(saved);
    ctx->saved_data["inputs"] = static_cast<std::int64_t>(inputs.size());
    ctx->saved_data["segment"] = c10::IValue::make_capsule(c10::make_intrusive<HeldSegment>(segment));
    const at::AutoGradMode with_gradients(true);
    tensor_list out = segment(cut_off(inputs));
    for (at::Tensor& t : out) t = t.detach();  // the graph behind it goes, and with it what it kept
    return out;
  }

  static tensor_list backward(AutogradContext* ctx, const tensor_list& gradients) {
    const tensor_list saved = ctx->get_saved_variables();
    const auto count = static_cast<std::size_t>(ctx->saved_data["inputs"].toInt());
    const auto held = c10::static_intrusive_pointer_cast<HeldSegment>(ctx->saved_data["segment"].toCapsule());
    const at::AutoGradMode with_gradients(true);
    tensor_list sources = cut_off(at::TensorList(saved).slice(0, count));
    const tensor_list out = held->segment(sources);
    sources.insert(sources.end(), saved.begin() + static_cast<std::ptrdiff_t>(count), saved.end());
    return through(out, gradients, sources);
  }

 private:
  // Gradients of all sources and a place for the segment, which has none.
  static tensor_list through(const tensor_list& out, const tensor_list& gradients, const tensor_list& sources) {
    tensor_list wanted;
    for (const at::Tensor& t : sources)
      if (t.requires_grad()) wanted.push_back(t);
    // Not backward(): that adds into the parameters' own gradients, which passes at the same time would share.
    tensor_list found = torch::autograd::grad(out, wanted, gradients, /*retain_graph=*/false, /*create_graph=*/false,
                                              /*allow_unused=*/true);
    tensor_list all;
    auto next = found.begin();
    for (const at::Tensor& t : sources) all.push_back(t.requires_grad() ? std::move(*next++) : at::Tensor());
    all.emplace_back();
    return all;
  }
};

}  // namespace

std::vector<at::Tensor> recomputed(const Segment& segment, const std::vector<at::Tensor>& inputs,
                                   const std::vector<at::Tensor>& parameters) {
  if (!at::GradMode::is_enabled()) return segment(inputs);
  return RecomputedSegment::apply(at::TensorList(inputs), at::TensorList(parameters), segment);
}

}  // namespace qat
