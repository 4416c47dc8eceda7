// Words for failed shape checks.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "kernels/common/view.h"

namespace qat::kernels {

std::string shape_text(std::int64_t rows, std::int64_t cols);  // "[rows, cols]"

template <typename T>
std::string shape_text(const Matrix<T>& m) {
  return shape_text(m.rows, m.cols);
}

template <typename T>
std::int64_t length(std::span<T> values) {
  return static_cast<std::int64_t>(values.size());
}

}  // namespace qat::kernels
