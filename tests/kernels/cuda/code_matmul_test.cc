// The CUDA integer GEMMs against the CPU's, bit for bit: every path, every tile.
#include "kernels/gemm/code_matmul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>

#include "kernels/gemm/code_matmul_cuda.h"
#include "kernels/gemm/matmul_plan.h"
#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::cuda_exec;
using test::DeviceBuffer;
using test::DeviceFloats;
using test::Grid;
using ::testing::HasSubstr;
using Codes = Grid<std::int8_t>;

class TuningScope {
 public:
  explicit TuningScope(const MatmulTuning& tuning) : before_(matmul_tuning()) { set_matmul_tuning(tuning); }
  ~TuningScope() { set_matmul_tuning(before_); }
  TuningScope(const TuningScope&) = delete;
  TuningScope& operator=(const TuningScope&) = delete;

 private:
  MatmulTuning before_;
};

struct EpilogueCase {
  bool per_row = true;
  bool per_col = true;
  bool bias = false;
  bool accumulate = false;
};
constexpr std::array kEpilogues{EpilogueCase{}, EpilogueCase{true, true, true, false},
                                EpilogueCase{false, true, true, true}, EpilogueCase{true, false, false, true},
                                EpilogueCase{false, false, false, false}};

std::string text(const EpilogueCase& with) {
  return std::string(with.per_row ? "row scales" : "one row scale") + (with.per_col ? ", column scales" : "") +
         (with.bias ? ", bias" : "") + (with.accumulate ? ", added" : "");
}

// One product with everything that an epilogue may take, on both devices.
class Product {
 public:
  Product(Codes a_in, Codes b_in)
      : a(std::move(a_in)),
        b(std::move(b_in)),
        row_scales(test::random_factors(a.rows, 1)),
        col_scales(test::random_factors(b.rows, 2)),
        bias(test::random_factors(b.rows, 3)),
        before(test::random_grid(a.rows, b.rows, 4)),
        cpu_sums_(a.rows, b.rows),
        device_a(a.values),
        device_b(b.values),
        device_row_scales(row_scales),
        device_col_scales(col_scales),
        device_bias(bias) {
    // The sums once: every expected output follows from them in the order of the contract.
    code_matmul_sums(Exec{}, a.view(), b.view(), cpu_sums_.view());
  }

  std::int64_t m() const { return a.rows; }
  std::int64_t n() const { return b.rows; }
  std::string shape() const {
    return std::to_string(m()) + " x " + std::to_string(n()) + " x " + std::to_string(a.cols);
  }
  const std::vector<std::int32_t>& cpu_sums() const { return cpu_sums_.values; }

  std::vector<float> expected(const EpilogueCase& with, DType dtype) const {
    std::vector<float> y = test::rounded_to(before.values, dtype);
    for (std::int64_t r = 0; r < m(); ++r)
      for (std::int64_t c = 0; c < n(); ++c) {
        const auto i = static_cast<std::size_t>(r * n() + c);
        const float row = row_scales[static_cast<std::size_t>(with.per_row ? r : 0)];
        const float col = col_scales[static_cast<std::size_t>(with.per_col ? c : 0)];
        float value = (row * col) * static_cast<float>(cpu_sums_.values[i]);
        if (with.bias) value = value + bias[static_cast<std::size_t>(c)];
        y[i] = test::rounded_to(with.accumulate ? y[i] + value : value, dtype);
      }
    return y;
  }

  CodeMatmulEpilogue device_epilogue(const EpilogueCase& with) const {
    return {device_row_scales.span().first(with.per_row ? device_row_scales.span().size() : 1),
            device_col_scales.span().first(with.per_col ? device_col_scales.span().size() : 1),
            device_bias.span().first(with.bias ? device_bias.span().size() : 0), with.accumulate};
  }
  CodeMatmulEpilogue host_epilogue(const EpilogueCase& with) const {
    return {std::span(row_scales).first(with.per_row ? row_scales.size() : 1),
            std::span(col_scales).first(with.per_col ? col_scales.size() : 1),
            std::span(bias).first(with.bias ? bias.size() : 0), with.accumulate};
  }

  Matrix<const std::int8_t> a_on_device() const { return device_a.matrix(a.rows, a.cols); }
  Matrix<const std::int8_t> b_on_device() const { return device_b.matrix(b.rows, b.cols); }

  std::vector<float> run(const EpilogueCase& with, DType dtype) const {
    // What is overwritten starts as NaN.
    const DeviceFloats y =
        with.accumulate ? DeviceFloats(before.values, m(), n(), dtype) : DeviceFloats(m(), n(), dtype);
    code_matmul(cuda_exec(), a_on_device(), b_on_device(), device_epilogue(with), y.view());
    return y.download();
  }

  const Codes a, b;
  const std::vector<float> row_scales, col_scales, bias;
  const Grid<float> before;

 private:
  Grid<std::int32_t> cpu_sums_;
  const DeviceBuffer<std::int8_t> device_a, device_b;
  const DeviceBuffer<float> device_row_scales, device_col_scales, device_bias;
};

Product random_product(std::int64_t m, std::int64_t n, std::int64_t k) {
  return {test::random_codes(m, k, 11), test::random_codes(n, k, 12)};
}

int capability() {
  const Matrix<const std::int8_t> none;
  return problem_of({none, none, {}, {}}).capability;
}

// Runs `body` for fp32 and bf16 and for all epilogues, and says which failed.
void expect_equals_cpu(const Product& product, const std::string& what) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
    for (const EpilogueCase& with : kEpilogues)
      EXPECT_TRUE(test::same_bits(product.run(with, dtype), product.expected(with, dtype)))
          << what << ", " << product.shape() << (dtype == DType::kBFloat16 ? " to bf16, " : " to fp32, ") << text(with);
}

// The same on every tile of the CUTLASS path.
void expect_all_tiles_equal_cpu(const Product& product) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
    for (const EpilogueCase& with : kEpilogues) {
      if (with.accumulate) continue;  // not on this path
      const std::vector<float> want = product.expected(with, dtype);
      for (int tile = 0; tile < cutlass_tile_count(dtype); ++tile) {
        const TuningScope scope({.path = MatmulPath::kCutlass, .tile = tile});
        EXPECT_TRUE(test::same_bits(product.run(with, dtype), want))
            << cutlass_tile_name(dtype, tile) << ", " << product.shape()
            << (dtype == DType::kBFloat16 ? " to bf16, " : " to fp32, ") << text(with);
      }
    }
}

TEST(CodeMatmulCuda, ExpectationsAreThoseOfTheCpu) {
  const Product product = random_product(33, 40, 300);
  for (const EpilogueCase& with : kEpilogues) {
    Grid<float> y = product.before;
    code_matmul(Exec{}, product.a.view(), product.b.view(), product.host_epilogue(with), y.view());
    EXPECT_TRUE(test::same_bits(y.values, product.expected(with, DType::kFloat32))) << text(with);
  }
}

TEST(CodeMatmulCuda, EveryTileEqualsTheCpuForWholeAndPartialTiles) {
  if (capability() != 90) GTEST_SKIP() << "needs sm_90";
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{{256, 256, 256},
                                                                        {1, 8, 16},
                                                                        {3, 24, 48},
                                                                        {128, 128, 128},
                                                                        {130, 2304, 768},
                                                                        {257, 264, 144},
                                                                        {640, 768, 80},
                                                                        {1000, 1600, 1600}})
    expect_all_tiles_equal_cpu(random_product(m, n, k));
}

TEST(CodeMatmulCuda, EveryTileEqualsTheCpuForDeepSumsOfFewTiles) {
  // Weight gradients and adapters: stream-K cuts these sums across blocks.
  if (capability() != 90) GTEST_SKIP() << "needs sm_90";
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
           {256, 192, 65536}, {16, 768, 16384}, {64, 128, 65536}, {768, 768, 8192}, {200, 136, 20016}})
    expect_all_tiles_equal_cpu(random_product(m, n, k));
}

TEST(CodeMatmulCuda, EveryTileEqualsTheCpuForAdapters) {
  if (capability() != 90) GTEST_SKIP() << "needs sm_90";
  for (const std::int64_t rank : {16, 32, 64}) {
    expect_all_tiles_equal_cpu(random_product(2048, rank, 768));
    expect_all_tiles_equal_cpu(random_product(2048, 768, rank));
  }
}

TEST(CodeMatmulCuda, EveryPathIsExactForTheLargestCodesOfOneSign) {
  for (const std::int64_t depth : {std::int64_t{6400}, std::int64_t{65536}, kMaxCodeDepth}) {
    Codes a(17, depth, 127), b(24, depth, -127);
    for (std::int64_t k = 0; k < depth; ++k) {
      a.at(1, k) = -127;
      b.at(1, k) = 127;
      a.at(2, k) = static_cast<std::int8_t>(k % 2 == 0 ? 127 : -127);
    }
    const Product product(std::move(a), std::move(b));
    ASSERT_EQ(product.cpu_sums()[0], -127 * 127 * depth);
    const DType fp32 = DType::kFloat32;
    for (const MatmulPath path :
         {MatmulPath::kNarrow, MatmulPath::kCutlass, MatmulPath::kCublasLt, MatmulPath::kSimple}) {
      if (path == MatmulPath::kNarrow && capability() < 80) continue;
      if (path == MatmulPath::kCutlass && capability() != 90) continue;
      const int tiles = path == MatmulPath::kCutlass ? cutlass_tile_count(fp32) : 1;
      for (int tile = 0; tile < tiles; ++tile) {
        const TuningScope scope({.path = path, .tile = tile});
        EXPECT_TRUE(test::same_bits(product.run({}, fp32), product.expected({}, fp32)))
            << name_of(path) << ", tile " << tile << ", " << product.shape();
      }
    }
  }
}

// y = a b^T and, with the roles of a and b exchanged, its transpose.
void expect_narrow_equals_cpu(std::int64_t rank, std::int64_t wide, std::int64_t depth) {
  const TuningScope scope({.path = MatmulPath::kNarrow});
  expect_equals_cpu(random_product(wide, rank, depth), "narrow b");
  expect_equals_cpu(random_product(rank, wide, depth), "narrow a");
}

TEST(CodeMatmulCuda, NarrowEqualsTheCpuForAnyNumberOfRows) {
  if (capability() < 80) GTEST_SKIP() << "needs sm_80";
  for (const std::int64_t rank : {1, 5, 8, 16, 17, 24, 32, 40, 63, 64})
    for (const std::int64_t wide : {1, 64, 127, 130, 1000}) expect_narrow_equals_cpu(rank, wide, 144);
  for (const std::int64_t rank : {16, 64}) expect_narrow_equals_cpu(rank, 4099, 768);
}

TEST(CodeMatmulCuda, NarrowEqualsTheCpuForWholeAndPartialStepsAndPartsOfASum) {
  if (capability() < 80) GTEST_SKIP() << "needs sm_80";
  // Steps are 128 codes deep, a sum is cut from 8 steps on, into at most a quarter as many parts.
  for (const std::int64_t depth : {16, 64, 112, 128, 256, 272, 512, 1008, 1024, 1040, 1600, 6400})
    for (const std::int64_t rank : {7, 24, 64}) expect_narrow_equals_cpu(rank, 257, depth);
}

TEST(CodeMatmulCuda, NarrowEqualsTheCpuForSumsOverTokens) {
  if (capability() < 80) GTEST_SKIP() << "needs sm_80";
  const TuningScope scope({.path = MatmulPath::kNarrow});
  for (const auto& [m, n, k] :
       std::vector<std::array<std::int64_t, 3>>{{16, 140, 65536}, {64, 130, 65536}, {130, 8, 65536}, {9, 20, 131072}})
    expect_equals_cpu(random_product(m, n, k), "narrow");
}

TEST(CodeMatmulCuda, NarrowLeavesGapsBetweenRowsAlone) {
  if (capability() < 80) GTEST_SKIP() << "needs sm_80";
  const TuningScope scope({.path = MatmulPath::kNarrow});
  for (const std::int64_t depth : {64, 2048})  // the sum in one piece, and in parts
    for (const auto& [m, n] : std::vector<std::array<std::int64_t, 2>>{{150, 13}, {13, 150}})
      for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
        const Product product = random_product(m, n, depth);
        const std::int64_t stride = n + 3;
        const DeviceFloats y(std::vector<float>(static_cast<std::size_t>(m * stride), 7.0F), m, stride, dtype);
        code_matmul(cuda_exec(), product.a_on_device(), product.b_on_device(), product.device_epilogue({}),
                    {y.view().data, m, n, stride, dtype});
        const std::vector<float> inside = product.expected({}, dtype);
        std::vector<float> want(static_cast<std::size_t>(m * stride), 7.0F);
        for (std::int64_t r = 0; r < m; ++r) std::copy_n(inside.begin() + r * n, n, want.begin() + r * stride);
        EXPECT_TRUE(test::same_bits(y.download(), want)) << product.shape();
      }
}

TEST(CodeMatmulCuda, CublasLtEqualsTheCpu) {
  if (capability() < 75) GTEST_SKIP() << "no int8 tensor cores";
  const TuningScope scope({.path = MatmulPath::kCublasLt});
  // The last needs more than one piece of rows.
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
           {1, 4, 4}, {17, 36, 20}, {64, 768, 256}, {130, 2304, 768}, {100, 100, 4096}, {6000, 6400, 16}})
    expect_equals_cpu(random_product(m, n, k), "cublaslt");
}

TEST(CodeMatmulCuda, SimpleEqualsTheCpu) {
  const TuningScope scope({.path = MatmulPath::kSimple});
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
           {1, 1, 0}, {1, 1, 1}, {3, 5, 7}, {33, 17, 65}, {64, 768, 64}, {65, 63, 130}, {130, 231, 768}, {5, 3, 40000}})
    expect_equals_cpu(random_product(m, n, k), "simple");
}

TEST(CodeMatmulCuda, ThePlannedPathEqualsTheCpuForAnyShape) {
  for (const std::int64_t m : {1, 5, 33, 200})
    for (const std::int64_t n : {1, 4, 8, 17, 72, 136})
      for (const std::int64_t k : {0, 1, 4, 16, 33, 64, 100, 784})
        expect_equals_cpu(random_product(m, n, k), "planned");
}

TEST(CodeMatmulCuda, CodesAtAnyAddressEqualTheCpu) {
  const Product product = random_product(40, 48, 64);
  const std::vector<float> want = product.expected({}, DType::kFloat32);
  for (const std::int64_t offset : {1, 2, 4, 8}) {
    std::vector<std::int8_t> shifted(static_cast<std::size_t>(offset + product.a.view().size()));
    std::copy(product.a.values.begin(), product.a.values.end(), shifted.begin() + offset);
    const DeviceBuffer<std::int8_t> a(shifted);
    const DeviceFloats y(40, 48, DType::kFloat32);
    code_matmul(cuda_exec(), {a.data() + offset, 40, 64}, product.b_on_device(), product.device_epilogue({}), y.view());
    EXPECT_TRUE(test::same_bits(y.download(), want)) << offset;
  }
}

TEST(CodeMatmulCuda, LeavesGapsBetweenRowsAlone) {
  const Product product = random_product(70, 48, 64);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
    for (const std::int64_t stride : {56, 64, 53}) {  // 53: not for TMA
      const EpilogueCase with{.bias = true, .accumulate = true};
      Grid<float> before(70, stride, 7.0F);
      for (std::int64_t r = 0; r < 70; ++r)
        for (std::int64_t c = 0; c < 48; ++c) before.at(r, c) = product.before.at(r, c);
      const DeviceFloats y(before.values, 70, stride, dtype);
      code_matmul(cuda_exec(), product.a_on_device(), product.b_on_device(), product.device_epilogue(with),
                  {y.view().data, 70, 48, stride, dtype});
      const std::vector<float> inside = product.expected(with, dtype);
      std::vector<float> want = before.values;
      for (std::int64_t r = 0; r < 70; ++r)
        for (std::int64_t c = 0; c < 48; ++c)
          want[static_cast<std::size_t>(r * stride + c)] = inside[static_cast<std::size_t>(r * 48 + c)];
      EXPECT_TRUE(test::same_bits(y.download(), want)) << "stride " << stride;
    }
}

TEST(CodeMatmulCuda, SumsEqualTheCpuOnEveryPath) {
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
           {1, 1, 0}, {3, 5, 7}, {33, 17, 64}, {64, 768, 256}, {130, 2304, 768}, {48, 64, 65536}, {16, 771, 1040}}) {
    const Product product = random_product(m, n, k);
    for (const bool simple : {false, true}) {
      MatmulTuning tuning;
      if (simple) tuning.path = MatmulPath::kSimple;
      const TuningScope scope(tuning);
      const DeviceBuffer<std::int32_t> sums(m * n);
      code_matmul_sums(cuda_exec(), product.a_on_device(), product.b_on_device(), sums.matrix(m, n));
      EXPECT_EQ(sums.download(), product.cpu_sums()) << product.shape() << (simple ? " simple" : " planned");
    }
  }
}

TEST(CodeMatmulCuda, TheTimedPickChangesNoBitAndIsKept) {
  if (capability() != 90) GTEST_SKIP() << "needs sm_90";
  const Product product = random_product(384, 512, 1024);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const EpilogueCase with{.bias = true};
    const std::vector<float> want = product.expected(with, dtype);
    const MatmulProblem problem{.m = 384, .n = 512, .k = 1024, .out = dtype};
    const TuningScope scope({.pick = MatmulTuning::Pick::kTimed});
    EXPECT_TRUE(test::same_bits(product.run(with, dtype), want));
    const char* picked = picked_tile_name(problem);
    ASSERT_NE(picked, nullptr);
    EXPECT_TRUE(test::same_bits(product.run(with, dtype), want));
    EXPECT_STREQ(picked_tile_name(problem), picked);
    MatmulProblem shorter = problem;
    shorter.m = 377;
    EXPECT_STREQ(picked_tile_name(shorter), picked) << "a new length is not timed";
    const TuningScope first({.pick = MatmulTuning::Pick::kFirst});
    EXPECT_TRUE(test::same_bits(product.run(with, dtype), want));
  }
}

TEST(CodeMatmulCuda, RepeatsItsBits) {
  const Product product = random_product(768, 768, 8192);
  const std::vector<float> first = product.run({}, DType::kFloat32);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(test::same_bits(product.run({}, DType::kFloat32), first));
}

TEST(CodeMatmulCuda, RefusesAPathThatCannotRunTheShape) {
  const Product product = random_product(8, 8, 20);
  const TuningScope scope({.path = MatmulPath::kCutlass});
  EXPECT_THAT(test::error_of(ErrorKind::kInternal, [&] { (void)product.run({}, DType::kFloat32); }),
              HasSubstr(capability() == 90 ? "K is not a multiple of 16" : "not an sm_90 device"));
}

TEST(CodeMatmulCuda, LeavesAnOutputWithoutElementsAlone) {
  const DeviceBuffer<std::int8_t> codes(16);
  const DeviceBuffer<float> one(std::vector<float>{1.0F});
  code_matmul(cuda_exec(), {codes.data(), 0, 16}, {codes.data(), 1, 16}, {one.span(), one.span(), {}, false},
              Matrix<float>{one.data(), 0, 1});
  code_matmul_sums(cuda_exec(), {codes.data(), 1, 16}, {codes.data(), 0, 16}, {nullptr, 1, 0});
}

}  // namespace
}  // namespace qat::kernels
