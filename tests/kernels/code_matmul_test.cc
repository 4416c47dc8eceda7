#include "kernels/gemm/code_matmul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "kernels/gemm/code_matmul_cpu.h"
#include "kernels/gemm/matmul_plan.h"
#include "kernels/quant/encode.h"
#include "tests/support/kernel_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using test::Grid;
using ::testing::HasSubstr;
using Codes = Grid<std::int8_t>;

std::vector<std::int64_t> reference_sums(const Codes& a, const Codes& b) {
  std::vector<std::int64_t> sums;
  for (std::int64_t m = 0; m < a.rows; ++m)
    for (std::int64_t n = 0; n < b.rows; ++n) {
      std::int64_t sum = 0;
      for (std::int64_t k = 0; k < a.cols; ++k) sum += static_cast<std::int64_t>(a.at(m, k)) * b.at(n, k);
      sums.push_back(sum);
    }
  return sums;
}

class CodeMatmulSums : public ::testing::TestWithParam<CpuIsa> {
 protected:
  void SetUp() override {
    if (GetParam() == CpuIsa::kAvx2 && best_cpu_isa() != CpuIsa::kAvx2) GTEST_SKIP() << "no AVX2 on this processor";
  }
  static std::vector<std::int64_t> sums(const Codes& a, const Codes& b, const Exec& exec = {}) {
    Grid<std::int32_t> out(a.rows, b.rows, /*fill=*/-7);
    code_matmul_cpu(exec, a.view(), b.view(), {.sums = out.view(), .y = {}, .epilogue = {}}, GetParam());
    return {out.values.begin(), out.values.end()};
  }
};

TEST_P(CodeMatmulSums, EqualInt64SumsForOddShapes) {
  for (const std::int64_t m : {1, 3, 6, 17, 33, 49})
    for (const std::int64_t n : {1, 3, 16, 17, 33, 64, 65})
      for (const std::int64_t k : {0, 1, 2, 3, 15, 16, 17, 33, 64, 65, 130}) {
        const Codes a = test::random_codes(m, k, 1), b = test::random_codes(n, k, 2);
        EXPECT_EQ(sums(a, b), reference_sums(a, b)) << m << " x " << n << " x " << k;
      }
}

TEST_P(CodeMatmulSums, EqualInt64SumsAcrossTheBlocksOfEveryDimension) {
  // Blocks are 48 rows, 512 columns and 512 codes deep: sizes at, below and above their edges.
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
           {48, 20, 511}, {49, 20, 512}, {97, 33, 513}, {50, 530, 40}, {53, 513, 700}, {5, 1030, 1025}}) {
    const Codes a = test::random_codes(m, k, 3), b = test::random_codes(n, k, 4);
    EXPECT_EQ(sums(a, b), reference_sums(a, b)) << m << " x " << n << " x " << k;
  }
}

TEST_P(CodeMatmulSums, AreExactForTheDeepestSumsOfTheLargestCodes) {
  // Rows of a: all 127, all -127, alternating, random. 127 * 127 * 131072 is 98.4 % of what int32 holds. 40 columns are
  // also more than are packed at once for sums this deep.
  Codes a(4, kMaxCodeDepth, 127), b = test::random_codes(40, kMaxCodeDepth, 6);
  const Codes random = test::random_codes(1, kMaxCodeDepth, 5);
  for (std::int64_t k = 0; k < kMaxCodeDepth; ++k) {
    a.at(1, k) = -127;
    a.at(2, k) = k % 2 == 0 ? 127 : -127;
    a.at(3, k) = random.at(0, k);
    b.at(0, k) = 127;
    b.at(1, k) = -127;
    b.at(39, k) = 127;
  }
  const std::vector<std::int64_t> got = sums(a, b);
  EXPECT_EQ(got[0], 127LL * 127 * kMaxCodeDepth);
  EXPECT_EQ(got[1], -127LL * 127 * kMaxCodeDepth);
  EXPECT_EQ(got[80], 0);
  EXPECT_EQ(got, reference_sums(a, b));
}

TEST_P(CodeMatmulSums, DoNotDependOnHowTheWorkIsCut) {
  const Codes a = test::random_codes(131, 600, 7), b = test::random_codes(75, 600, 8);
  const std::vector<std::int64_t> want = reference_sums(a, b);
  for (const int threads : {1, 2, 3, 7}) {
    const test::ThreadsParallelFor parallel(threads);
    EXPECT_EQ(sums(a, b, Exec{.parallel = &parallel}), want) << threads;
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, CodeMatmulSums, ::testing::Values(CpuIsa::kPortable, CpuIsa::kAvx2),
                         [](const auto& test_case) { return test_case.param == CpuIsa::kAvx2 ? "Avx2" : "Portable"; });

struct EpilogueCase {
  bool row_scales;  // one a row, or one for all
  bool col_scales;
  bool bias;
  bool accumulate;
};

TEST(CodeMatmul, RoundsScalesConversionBiasAndSumInTheOrderWritten) {
  const Codes a = test::random_codes(19, 700, 9), b = test::random_codes(37, 700, 10);
  const std::vector<std::int64_t> sums = reference_sums(a, b);
  const std::vector<float> rows = test::random_factors(19, 1), cols = test::random_factors(37, 2);
  const std::vector<float> bias = test::random_factors(37, 3);
  const Grid<float> before = test::random_grid(19, 37, 4);
  int other_order_differs = 0;
  for (int bits = 0; bits < 16; ++bits) {
    const EpilogueCase with{(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, (bits & 8) != 0};
    Grid<float> want = before;
    for (std::int64_t m = 0; m < 19; ++m)
      for (std::int64_t n = 0; n < 37; ++n) {
        const float row = rows[static_cast<std::size_t>(with.row_scales ? m : 0)];
        const float col = cols[static_cast<std::size_t>(with.col_scales ? n : 0)];
        const float sum = static_cast<float>(sums[static_cast<std::size_t>(m * 37 + n)]);
        float value = (row * col) * sum;
        other_order_differs += value != row * (col * sum) ? 1 : 0;
        if (with.bias) value = value + bias[static_cast<std::size_t>(n)];
        want.at(m, n) = with.accumulate ? want.at(m, n) + value : value;
      }
    const CodeMatmulEpilogue epilogue{std::span(rows).first(with.row_scales ? 19 : 1),
                                      std::span(cols).first(with.col_scales ? 37 : 1),
                                      std::span(bias).first(with.bias ? 37 : 0), with.accumulate};
    for (const CpuIsa isa : {CpuIsa::kPortable, best_cpu_isa()}) {
      Grid<float> y = before;
      code_matmul_cpu(Exec{}, a.view(), b.view(), {.sums = {}, .y = y.view(), .epilogue = epilogue}, isa);
      EXPECT_TRUE(test::same_bits(y.values, want.values)) << "case " << bits;
    }
  }
  EXPECT_GT(other_order_differs, 100);  // else the order was not tested
}

TEST(CodeMatmul, EqualsFakeQuantizationInExactArithmetic) {
  // Every row holds a value whose scale is a power of two, so no product of scales is rounded, and sums stay below
  // 2^24: then (sum of codes) * scales is the very number that multiplying the fake-quantized matrices gives.
  const auto encoded = [](Grid<float> x, int bits, Codes& codes, std::vector<float>& scales) {
    for (std::int64_t r = 0; r < x.rows; ++r) {
      for (std::int64_t c = 0; c < x.cols; ++c) x.at(r, c) = std::clamp(x.at(r, c), -1.0F, 1.0F);
      x.at(r, r % x.cols) = std::ldexp(static_cast<float>(BitWidth(bits).q_max()), static_cast<int>(r % 4) - bits + 1);
      for (std::int64_t c = 0; c < x.cols; ++c)
        x.at(r, c) = std::clamp(x.at(r, c), -x.at(r, r % x.cols), x.at(r, r % x.cols));
    }
    encode_rows(Exec{}, x.view(), {.width = BitWidth(bits)}, {codes.view(), {}}, scales);
  };
  for (int bits = 2; bits <= 8; ++bits) {
    Codes a(21, 530), b(35, 530);
    std::vector<float> a_scales(21), b_scales(35);
    encoded(test::random_grid(21, 530, 11), bits, a, a_scales);
    encoded(test::random_grid(35, 530, 12), bits, b, b_scales);
    Grid<float> x(21, 530), w(35, 530), y(21, 35);
    decode_rows(Exec{}, a.view(), a_scales, x.view());
    decode_rows(Exec{}, b.view(), b_scales, w.view());
    code_matmul(Exec{}, a.view(), b.view(), {a_scales, b_scales, {}, false}, y.view());
    for (std::int64_t m = 0; m < 21; ++m)
      for (std::int64_t n = 0; n < 35; ++n) {
        double dot = 0.0;
        for (std::int64_t k = 0; k < 530; ++k) dot += static_cast<double>(x.at(m, k)) * w.at(n, k);
        ASSERT_EQ(static_cast<double>(y.at(m, n)), dot) << bits << " bits at " << m << ", " << n;
      }
  }
}

TEST(CodeMatmul, OfAnEmptySumIsTheBias) {
  const Codes a(3, 0), b(2, 0);
  const std::vector<float> one{1.0F}, bias{0.5F, -2.0F};
  Grid<float> y(3, 2, 9.0F);
  code_matmul(Exec{}, a.view(), b.view(), {one, one, bias, false}, y.view());
  EXPECT_EQ(y.values, (std::vector<float>{0.5F, -2.0F, 0.5F, -2.0F, 0.5F, -2.0F}));
}

TEST(CodeMatmul, LeavesAnOutputWithoutElementsAlone) {
  const Codes a(0, 5), b(2, 5);
  const std::vector<float> one{1.0F};
  Grid<float> y(0, 2);
  code_matmul(Exec{}, a.view(), b.view(), {one, one, {}, false}, y.view());
  code_matmul(Exec{}, b.view(), a.view(), {one, one, {}, true}, Matrix<float>{y.values.data(), 2, 0});
}

TEST(CodeMatmul, RefusesWhatItsContractExcludes) {
  const Codes a(3, 8), b(4, 8), other(4, 9), deep(1, kMaxCodeDepth + 1);
  Grid<float> y(3, 4), wrong(4, 3), single(1, 1);
  const std::vector<float> one{1.0F}, two(2, 1.0F);
  const auto message = [](const Codes& left, const Codes& right, const CodeMatmulEpilogue& epilogue,
                          Matrix<float> out) {
    return test::error_of(ErrorKind::kInternal, [&] { code_matmul(Exec{}, left.view(), right.view(), epilogue, out); });
  };
  const CodeMatmulEpilogue plain{one, one, {}, false};
  EXPECT_THAT(message(a, other, plain, y.view()), HasSubstr("summed dimensions differ"));
  EXPECT_THAT(message(a, b, plain, wrong.view()), HasSubstr("the output is [4, 3]"));
  EXPECT_THAT(message(a, b, {two, one, {}, false}, y.view()), HasSubstr("2 row scales for 3"));
  EXPECT_THAT(message(a, b, {one, two, {}, false}, y.view()), HasSubstr("2 column scales for 4"));
  EXPECT_THAT(message(a, b, {one, {}, {}, false}, y.view()), HasSubstr("0 column scales for 4"));
  EXPECT_THAT(message(a, b, {one, one, two, false}, y.view()), HasSubstr("2 biases for 4"));
  EXPECT_THAT(message(deep, deep, plain, single.view()), HasSubstr("may leave int32"));
}

TEST(CodeMatmul, OnACpuWritesDenseFp32Only) {
  const Codes a(3, 8), b(4, 8);
  const std::vector<float> one{1.0F};
  Grid<float> y(3, 8);
  const auto message = [&](const FloatMatrix& out) {
    return test::error_of(ErrorKind::kInternal, [&] {
      code_matmul(Exec{}, a.view(), b.view(), {one, one, {}, false}, out);
    });
  };
  EXPECT_THAT(message({y.values.data(), 3, 4, 4, DType::kBFloat16}), HasSubstr("dense fp32"));
  EXPECT_THAT(message({y.values.data(), 3, 4, 8, DType::kFloat32}), HasSubstr("dense fp32"));
  EXPECT_THAT(message({y.values.data(), 3, 4, 3, DType::kFloat32}), HasSubstr("overlap"));
  EXPECT_THAT(message({y.values.data(), 3, 4, 4, DType::kInt32}), HasSubstr("neither fp32 nor bf16"));
}

MatmulProblem hopper_problem() {
  return {.m = 65536, .n = 768, .k = 3072, .out = DType::kBFloat16, .out_stride = 768, .capability = 90};
}

TEST(MatmulPlan, GivesWhatTmaCanAddressToCutlassUnlessOneSideIsNarrow) {
  MatmulProblem problem = hopper_problem();
  EXPECT_EQ(to_text(problem, plan_code_matmul(problem)),
            "65536 x 768 x 3072 to bf16 on sm_90: cutlass (shape and addresses fit TMA)");
  for (const DType out : {DType::kFloat32, DType::kBFloat16})
    for (const bool accumulate : {false, true})
      for (const std::int64_t m : {1, 3, 16, 65536})
        for (const std::int64_t n : {8, 16, 768, 6400})
          for (const std::int64_t k : {16, 64, 1600, 65536}) {
            problem = {.m = m, .n = n, .k = k, .out = out, .out_stride = n, .accumulate = accumulate, .capability = 90};
            const MatmulPlan plan = plan_code_matmul(problem);
            const bool narrow = std::min(m, n) <= 64 && std::max(m, n) >= 512;
            const MatmulPath wanted = narrow        ? MatmulPath::kNarrow
                                      : !accumulate ? MatmulPath::kCutlass
                                                    : MatmulPath::kCublasLt;
            EXPECT_EQ(plan.path, wanted) << to_text(problem, plan);
          }
}

TEST(MatmulPlan, TunesOneOfEightSizesAnOctave) {
  for (const std::int64_t own : {0, 1, 2, 7, 15, 16, 18, 64, 768, 1024, 1600, 2304, 3072, 4096, 6400, 65536})
    EXPECT_EQ(tuned_size(own), own == 1600 || own == 6400 ? own * 1664 / 1600 : own);
  EXPECT_EQ(tuned_size(17), 18);
  EXPECT_EQ(tuned_size(33), 36);
  EXPECT_EQ(tuned_size(63), 64);
  EXPECT_EQ(tuned_size(9217), 10240);
  std::set<std::int64_t> sizes;
  for (std::int64_t n = 32768; n < 65536; ++n) {
    EXPECT_TRUE(tuned_size(n) >= n && tuned_size(n) < n + 4096) << n;
    sizes.insert(tuned_size(n));
  }
  EXPECT_EQ(sizes.size(), 9U) << "32768 and eight above it";
}

TEST(MatmulPlan, GivesAdapterProductsToTheNarrowPath) {
  MatmulProblem problem = hopper_problem();
  problem.n = problem.out_stride = 16;
  EXPECT_EQ(to_text(problem, plan_code_matmul(problem)),
            "65536 x 16 x 3072 to bf16 on sm_90: narrow (one side is narrow)");
  const auto path_of = [](std::int64_t m, std::int64_t n, const auto& change) {
    MatmulProblem changed = hopper_problem();
    changed.m = m, changed.n = changed.out_stride = n;
    change(changed);
    return plan_code_matmul(changed).path;
  };
  const auto as_it_is = [](MatmulProblem& /*p*/) {};
  EXPECT_EQ(path_of(64, 768, as_it_is), MatmulPath::kNarrow);
  EXPECT_EQ(path_of(768, 64, as_it_is), MatmulPath::kNarrow);
  EXPECT_EQ(path_of(65, 768, as_it_is), MatmulPath::kCutlass);
  EXPECT_EQ(path_of(16, 511, as_it_is), MatmulPath::kSimple);
  EXPECT_EQ(path_of(16, 504, as_it_is), MatmulPath::kCutlass);
  // Any number of rows, any address and stride of y, any output.
  EXPECT_EQ(path_of(5, 50257, as_it_is), MatmulPath::kNarrow);
  EXPECT_EQ(path_of(16, 768, [](MatmulProblem& p) { p.out_alignment = 2, p.out_stride = 771; }), MatmulPath::kNarrow);
  EXPECT_EQ(path_of(16, 768, [](MatmulProblem& p) { p.out = DType::kInt32; }), MatmulPath::kNarrow);
  EXPECT_EQ(path_of(16, 768, [](MatmulProblem& p) { p.capability = 80; }), MatmulPath::kNarrow);
}

TEST(MatmulPlan, SaysWhatIsInTheWayOfTheNarrowPath) {
  const auto obstacle = [](const auto& change) -> std::string {
    MatmulProblem problem = hopper_problem();
    problem.n = 16;
    change(problem);
    const char* text = obstacle_of(MatmulPath::kNarrow, problem);
    EXPECT_EQ(plan_code_matmul(problem).path == MatmulPath::kNarrow, text == nullptr);
    return text == nullptr ? "none" : text;
  };
  EXPECT_EQ(obstacle([](MatmulProblem& p) { p.m = 512; }), "none");
  EXPECT_EQ(obstacle([](MatmulProblem& p) { p.capability = 75; }), "no int8 tensor cores of sm_80");
  EXPECT_EQ(obstacle([](MatmulProblem& p) { p.n = 65; }), "neither M nor N is at most 64");
  EXPECT_EQ(obstacle([](MatmulProblem& p) { p.k = 0; }), "an empty sum");
  EXPECT_EQ(obstacle([](MatmulProblem& p) { p.k = 24; }), "K is not a multiple of 16");
  EXPECT_EQ(obstacle([](MatmulProblem& p) { p.operand_alignment = 8; }), "the codes are not 16-byte aligned");
}

TEST(MatmulPlan, SaysWhatTheFasterPathsLack) {
  const auto planned = [](const auto& change) {
    MatmulProblem problem = hopper_problem();
    change(problem);
    const MatmulPlan plan = plan_code_matmul(problem);
    EXPECT_EQ(obstacle_of(plan.path, problem), nullptr);
    return std::string(name_of(plan.path)) + ": " + plan.why;
  };
  const auto depth = [](std::int64_t k) { return [k](MatmulProblem& p) { p.k = k; }; };
  EXPECT_EQ(planned([](MatmulProblem& p) { p.capability = 80; }), "cublaslt: not an sm_90 device");
  EXPECT_EQ(planned([](MatmulProblem& p) { p.capability = 100; }), "cublaslt: not an sm_90 device");
  EXPECT_EQ(planned([](MatmulProblem& p) { p.capability = 70; }), "simple: no int8 tensor cores");
  EXPECT_EQ(planned(depth(24)), "cublaslt: K is not a multiple of 16");
  EXPECT_EQ(planned(depth(18)), "simple: K is not a multiple of 4");
  EXPECT_EQ(planned(depth(0)), "simple: an empty sum");
  EXPECT_EQ(planned([](MatmulProblem& p) { p.n = 772; }), "cublaslt: N is not a multiple of 8");
  EXPECT_EQ(planned([](MatmulProblem& p) { p.n = 50257; }), "simple: N is not a multiple of 4");
  EXPECT_EQ(planned([](MatmulProblem& p) { p.operand_alignment = 8; }), "simple: the codes are not 16-byte aligned");
  EXPECT_EQ(planned([](MatmulProblem& p) { p.out_alignment = 8; }), "cublaslt: y is not 16-byte aligned");
  EXPECT_EQ(planned([](MatmulProblem& p) { p.out_stride = 772; }), "cublaslt: the rows of y are not 16-byte aligned");
  EXPECT_EQ(planned([](MatmulProblem& p) { p.out = DType::kInt32; }), "cublaslt: bare sums have no scaling epilogue");
}

TEST(MatmulPlan, TuningIsWhatWasSetLast) {
  const MatmulTuning before = matmul_tuning();
  EXPECT_FALSE(before.path.has_value());
  set_matmul_tuning({.pick = MatmulTuning::Pick::kFirst, .path = MatmulPath::kSimple, .tile = 2});
  const MatmulTuning set = matmul_tuning();
  set_matmul_tuning(before);
  EXPECT_EQ(set.pick, MatmulTuning::Pick::kFirst);
  EXPECT_EQ(set.path, MatmulPath::kSimple);
  EXPECT_EQ(set.tile, 2);
}

}  // namespace
}  // namespace qat::kernels
