// AdamW and clipping. JSON section "optim".
#pragma once

namespace qat {

struct OptimConfig {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;      // decoupled; not on layer norms and biases
  double range_lr_factor = 0.01;  // times the learning rate: what quantizers train of their ranges
  double clip_norm = 1.0;         // gradients are scaled down to this global norm; 0: no clipping
};

}  // namespace qat
