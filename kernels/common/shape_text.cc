#include "kernels/common/shape_text.h"

namespace qat::kernels {

std::string shape_text(std::int64_t rows, std::int64_t cols) {
  std::string text(1, '[');
  text += std::to_string(rows);
  text += ", ";
  text += std::to_string(cols);
  text += ']';
  return text;
}

}  // namespace qat::kernels
