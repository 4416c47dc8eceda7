// What the tests of the kernels that turn logits into losses and gradients share.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "kernels/loss/softmax_cross_entropy.h"
#include "tests/support/kernel_data.h"

namespace qat::test {

// Every logit's gradient beside the central difference of its row's loss; columns from `classes` on are padding.
inline void expect_gradient_of(Grid<float>& logits, const Grid<float>& gradient, std::int64_t row, std::int64_t classes,
                               double scale, const std::function<double()>& loss) {
  for (std::int64_t v = 0; v < logits.cols; ++v) {
    const float before = logits.at(row, v);
    logits.at(row, v) = before + 0.01F;
    const double up = loss();
    logits.at(row, v) = before - 0.01F;
    const double down = loss();
    logits.at(row, v) = before;
    EXPECT_NEAR(gradient.at(row, v), v < classes ? scale * (up - down) / 0.02 : 0.0, 1e-4) << row << "," << v;
  }
}

// A class for each row, the first one's the last there is; every third row from the second on has none.
inline std::vector<std::int64_t> some_targets(std::int64_t rows, std::int64_t classes) {
  std::mt19937 generator(2);
  std::vector<std::int64_t> targets(static_cast<std::size_t>(rows));
  for (std::int64_t& target : targets) target = static_cast<std::int64_t>(generator()) % classes;
  targets[0] = classes - 1;
  for (std::size_t m = 1; m < targets.size(); m += 3) targets[m] = kernels::kIgnoredTarget;
  return targets;
}

// Gradients within absolute + relative * |want|, and zeros in the padding; names the first few that are not.
inline void expect_gradients_near(const std::vector<float>& got, const Grid<float>& want, std::int64_t classes,
                                  float absolute, float relative) {
  ASSERT_EQ(got.size(), want.values.size());
  int failures = 0;
  for (std::size_t i = 0; i < got.size() && failures < 5; ++i) {
    const std::int64_t column = static_cast<std::int64_t>(i) % want.cols;
    if (column >= classes ? got[i] == 0.0F
                          : std::abs(got[i] - want.values[i]) <= absolute + relative * std::abs(want.values[i]))
      continue;
    ++failures;
    ADD_FAILURE() << "row " << static_cast<std::int64_t>(i) / want.cols << " column " << column << " is " << got[i]
                  << " instead of " << want.values[i];
  }
}

}  // namespace qat::test
