// Where a backward pass leaves the gradients of its parameters. It is asked in backward, when a gradient is about to be
// written, and never in forward: passes in flight need no memory for gradients.
//
// A gradient reaches its sink in one of two ways. Either its writer calls written(), and autograd need not see it; or
// it comes back through autograd, from its place or from elsewhere, and the sink takes it when the pass is over.
#pragma once

#include <ATen/core/Tensor.h>

namespace qat {

// Of one pass, asked by one thread at a time. Ids are ParameterStore's.
class GradientSink {
 public:
  virtual ~GradientSink() = default;

  // The place for the pass's gradient of parameter `id`: fp32, dense, of its shape; what it holds is unspecified.
  // Undefined if the parameter is frozen or its place is given away: the gradient then goes into memory of its writer's
  // and to autograd, which adds up the gradients of a parameter that is used twice.
  virtual at::Tensor open(int id) = 0;
  // The place of a gradient that an earlier use of the parameter has written in this pass, for a later one that adds
  // its own in place; undefined if there is none.
  virtual at::Tensor opened(int id) = 0;
  // The gradient in `id`'s place is complete: no other use of the parameter comes after this one in the pass. It may be
  // exchanged from now on, and its place is no longer the pass's to write or read.
  virtual void written(int id) = 0;
};

}  // namespace qat
