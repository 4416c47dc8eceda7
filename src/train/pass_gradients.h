// Where one pass leaves its gradients: in its leaves of the groups' exchanges (dist/grad/grad_sync.h).
//
// A bucket's leaf is asked for with the first place in it, and committed with the last gradient: those that are
// written() in backward as soon as they are, all others when the pass is over. Parameters without a gradient get zeros,
// so that every bucket is committed in every pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <span>
#include <vector>

#include "dist/grad/grad_sync.h"
#include "src/model/parameter_store.h"
#include "src/quant/gradient_sink.h"

namespace qat {

class PassGradients final : public GradientSink {
 public:
  // Called with every trainable parameter's gradient, in its place, before its bucket is committed.
  using Hook = std::function<void(int id, const at::Tensor& gradient)>;

  // syncs: one for each of store.groups(), of which the step has started those that are `used`; the others have no
  // places here. All must outlive this.
  PassGradients(const ParameterStore& store, std::span<dist::GradSync> syncs, const std::vector<bool>& used,
                Hook hook = {});

  at::Tensor open(int id) override;
  at::Tensor opened(int id) override;
  void written(int id) override;

  // The pass is over. gradients: what autograd returned, one for each of trainable_tensors(); undefined: nothing.
  // produced[i] becomes true for each that has a gradient.
  void finish(const std::vector<at::Tensor>& gradients, std::vector<bool>& produced);

 private:
  struct Place {
    at::Tensor tensor;  // undefined: not asked for
    bool complete = false;
  };
  Place& at(int id) { return places_.at(static_cast<std::size_t>(id)); }
  at::Tensor place(int id);
  // Takes what is still open of a bucket from `gradients`, and commits it.
  void fill(const FlatGroup& group, int bucket, const std::vector<at::Tensor>& gradients);
  void commit(int group, int bucket);

  const ParameterStore* store_;
  std::span<dist::GradSync> syncs_;
  std::vector<bool> used_;
  Hook hook_;
  std::vector<Place> places_;           // by id
  std::vector<std::vector<int>> open_;  // by group and bucket: parameters whose gradient is not complete
};

}  // namespace qat
