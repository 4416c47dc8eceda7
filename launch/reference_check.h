// How much of a model is still what it began with: its parameters beside those of another checkpoint.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/checkpoint/reader.h"
#include "src/model/gpt2.h"

namespace qat::launch {

struct ReferenceCheck {
  std::int64_t tensors = 0, equal_tensors = 0;  // in both; all of whose values are equal within kReferenceTolerance
  std::int64_t values = 0, equal_values = 0;
  std::vector<std::string> others;  // tensors that the reference lacks, or has in another shape
  std::string farthest;             // the tensor with the largest difference; empty: there is none
  double largest = 0.0;
};
inline constexpr double kReferenceTolerance = 1e-5;

// One rank's work. Throws Error(kCheckpoint) for a reference without any tensor of the model.
ReferenceCheck compare_with_reference(const Gpt2& model, const CheckpointReader& reference);

std::string reference_text(const ReferenceCheck& check, const std::string& folder);
Value reference_value(const ReferenceCheck& check, const std::string& folder);

}  // namespace qat::launch
