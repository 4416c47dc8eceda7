#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/model/parameter_store.h"
#include "src/optim/sharded_adamw.h"

namespace qat {

// What this rank answers for of one trainable parameter: elements [first, first + elems) of it, as they lie on the
// model's device. Over all ranks, every element of every trainable parameter is in exactly one of these.
struct OwnedState {
  int id = 0;  // ParameterStore's
  std::int64_t first = 0, elems = 0;
  std::span<float> values, exp_avg, exp_avg_sq;
};

// By rising id; parameters of which this rank owns nothing are not in it, nor are frozen ones, which are whole on every
// rank and have no moments. `optimizer` is that of `store`'s trainable parameters.
std::vector<OwnedState> owned_state(const ParameterStore& store, ShardedAdamW& optimizer);

}  // namespace qat
