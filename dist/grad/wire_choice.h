// Which format is the fastest for gradients at no measurable loss: a rule, from how long the exchange takes in each of
// them and how long a step computes beside it.
//
// fp32 is more than a format: with it a run has the same bits on 1, 2, 4, ... ranks. So another one must be worth it:
// it makes a step kWorthOnOneHost times as fast where all ranks are on one host, kWorthAcrossHosts times where they are
// not. int4 is in nobody's question: its gradients are too coarse to be taken unasked.
#pragma once

#include <vector>

#include "dist/grad/grad_wire.h"

namespace qat::dist {

struct WireTime {
  WireFormat format = WireFormat::kFloat32;
  double seconds = 0.0;  // of all exchanges of a step
};

struct WireQuestion {
  std::vector<WireTime> times;  // fp32 first, then from wide to narrow
  double compute_s = 0.0;       // of a step, without its exchanges
  double hidden_s = 0.0;        // of that, what exchanges may run beside
  bool one_host = true;         // all ranks are on it

  // A step whose exchanges take so long.
  double step_s(double exchange_s) const { return compute_s + (exchange_s > hidden_s ? exchange_s - hidden_s : 0.0); }
  double worth() const;
};

constexpr double kWorthOnOneHost = 1.5, kWorthAcrossHosts = 1.1;

// The fastest that is worth it; of two that are as fast within a hundredth, the wider one.
WireFormat choose_wire(const WireQuestion& question);

}  // namespace qat::dist
