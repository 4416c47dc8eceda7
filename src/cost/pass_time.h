// How long a pass takes in each part of the model: from its operations and bytes, and from what a device does of them
// in a second (device_rates.h). One model of times for whatever is planned: where a pipeline is cut, how long a step
// takes.
//
// A block's products are counted with the arithmetic that they take (src/quant/gemm_path.h), and its element-wise work
// by the bytes that its kernels read and write. benchmarks/README.md has steps that it was compared with; they agree
// within a tenth (tests/src/cost/pass_time_test.cc).
#pragma once

#include <vector>

#include "dist/pipeline/stage_cut.h"
#include "src/cost/device_rates.h"
#include "src/memory/pass_shape.h"

namespace qat {

// Seconds of one micro-batch.
struct PassTime {
  double forward_s = 0.0;
  double backward_s = 0.0;

  double total() const { return forward_s + backward_s; }
  PassTime& operator+=(const PassTime& other);
};

struct ModelTimes {
  std::vector<PassTime> blocks;  // of the whole model
  PassTime embedding;
  PassTime head;  // the last norm, the output projection and the loss: in training all of it is backward, which it
                  // begins, since the head goes both ways at once

  double total() const;
};

// pass.part does not matter: of everything. A pass that does not train has no backward.
ModelTimes model_times(const PassShape& pass, const DeviceRates& rates);

// What a step takes beside its passes: the optimizer, and weights made ready for products. trained: elements that this
// rank updates.
double update_seconds(double trained, const DeviceRates& rates);

// Forward and backward together.
dist::LayerCosts layer_costs(const ModelTimes& times);

}  // namespace qat
