#include "src/data/eval_windows.h"

#include <gmock/gmock.h>

#include "tests/src/data/data_fixture.h"

namespace qat {
namespace {

using ::testing::ElementsAre;

TEST(EvalWindows, ScoreEveryTokenButTheFirstExactlyOnceForAnyStride) {
  for (std::int64_t tokens = 0; tokens <= 40; ++tokens) {
    for (std::int64_t length = 1; length <= 12; ++length) {
      for (std::int64_t stride = 1; stride <= length; ++stride) {
        std::vector<int> scored(static_cast<std::size_t>(tokens), 0);
        std::int64_t total = 0;
        for (const EvalWindow& w : eval_windows(tokens, length, stride)) {
          EXPECT_LE(w.inputs(), length);
          EXPECT_GT(w.score_begin, w.begin);  // what is scored has a token before it
          EXPECT_LT(w.score_begin, w.end);
          EXPECT_LE(w.end, tokens);
          total += w.scored();
          for (std::int64_t t = w.score_begin; t < w.end; ++t) ++scored[static_cast<std::size_t>(t)];
        }
        EXPECT_EQ(total, std::max<std::int64_t>(tokens - 1, 0)) << tokens << " " << length << " " << stride;
        for (std::size_t t = 1; t < scored.size(); ++t) EXPECT_EQ(scored[t], 1);
      }
    }
  }
}

TEST(EvalWindows, LookAsDescribed) {
  EXPECT_THAT(eval_windows(10, 4, 4), ElementsAre(EvalWindow{0, 5, 1}, EvalWindow{4, 9, 5}, EvalWindow{8, 10, 9}));
  EXPECT_THAT(eval_windows(9, 4, 2), ElementsAre(EvalWindow{0, 5, 1}, EvalWindow{2, 7, 5}, EvalWindow{4, 9, 7}));
  EXPECT_THAT(eval_windows(3, 100, 7), ElementsAre(EvalWindow{0, 3, 1}));
}

TEST(EvalWindows, AStrideThatSkipsOrNeverAdvancesIsRefused) {
  for (const std::int64_t stride : {0, 5}) {
    EXPECT_THAT(testing::error_message(ErrorKind::kConfig, [&] { eval_windows(10, 4, stride); }),
                ::testing::HasSubstr("expected 1 to 4"));
  }
}

}  // namespace
}  // namespace qat
