#include "launch/reference_check.h"

#include <fmt/format.h>

#include <cmath>

#include "kernels/common/error.h"

namespace qat::launch {
namespace {

void compare(const std::string& name, const std::vector<float>& own, const std::vector<float>& other,
             ReferenceCheck& check) {
  std::int64_t equal = 0;
  for (std::size_t i = 0; i < own.size(); ++i) {
    const double difference = std::abs(static_cast<double>(own[i]) - static_cast<double>(other[i]));
    if (difference <= kReferenceTolerance) ++equal;
    if (!(difference <= check.largest)) check.largest = difference, check.farthest = name;
  }
  ++check.tensors;
  check.values += std::ssize(own), check.equal_values += equal;
  if (equal == std::ssize(own)) ++check.equal_tensors;
}

double percent(const ReferenceCheck& check) {
  return 100.0 * static_cast<double>(check.equal_values) / static_cast<double>(check.values);
}

}  // namespace

ReferenceCheck compare_with_reference(const Gpt2& model, const CheckpointReader& reference) {
  ReferenceCheck check;
  for (int id = 0; id < model.parameters().count(); ++id) {
    const ParameterInfo& info = model.parameters().info(id);
    const std::string name = "/model/" + info.name;
    if (!reference.has_tensor(name) || reference.tensor_info(name).shape != info.shape) {
      check.others.push_back(info.name);
      continue;
    }
    compare(info.name, model.parameters().host_values(id), reference.read_tensor<float>(name), check);
  }
  if (check.tensors == 0)
    throw Error(ErrorKind::kCheckpoint, fmt::format("--reference: {} has no parameter of this model in the same shape",
                                                    reference.info().folder.string()));
  return check;
}

std::string reference_text(const ReferenceCheck& check, const std::string& folder) {
  std::string text = fmt::format("Beside {}: {} of {} tensors are equal within {:g}, {:.4g} % of their values", folder,
                                 check.equal_tensors, check.tensors, kReferenceTolerance, percent(check));
  if (!check.farthest.empty())
    text += fmt::format("; the largest difference, {:.4g}, is in {}", check.largest, check.farthest);
  if (!check.others.empty())
    text +=
        fmt::format("; {} tensors of this model are not there, such as {}", check.others.size(), check.others.front());
  return text + "\n";
}

Value reference_value(const ReferenceCheck& check, const std::string& folder) {
  return Value::object({{"reference", folder},
                        {"tolerance", kReferenceTolerance},
                        {"tensors", check.tensors},
                        {"equal_tensors", check.equal_tensors},
                        {"values", check.values},
                        {"equal_values", check.equal_values},
                        {"percent_equal", percent(check)},
                        {"largest_difference", std::isfinite(check.largest) ? Value(check.largest) : Value()},
                        {"farthest", check.farthest},
                        {"not_in_reference", Value::array(check.others)}});
}

}  // namespace qat::launch
