// Encoding on a GPU against the CPU, bit for bit.
#include "kernels/quant/encode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;
using test::DeviceFloats;
using test::Grid;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

::testing::AssertionResult same_codes(const std::vector<std::int8_t>& got, const std::vector<std::int8_t>& want,
                                      std::int64_t cols) {
  std::size_t wrong = 0, first = 0;
  for (std::size_t i = 0; i < want.size(); ++i)
    if (got[i] != want[i] && wrong++ == 0) first = i;
  if (wrong == 0) return ::testing::AssertionSuccess();
  const auto at = static_cast<std::int64_t>(first);
  return ::testing::AssertionFailure() << wrong << " of " << want.size() << " codes differ, first at [" << at / cols
                                       << ", " << at % cols << "]: " << static_cast<int>(got[first]) << " instead of "
                                       << static_cast<int>(want[first]);
}

using Shape = std::pair<std::int64_t, std::int64_t>;

enum class Mode { kRows, kCols, kGiven, kGivenOne };

struct Case {
  Mode mode;
  DType dtype;
  Rounding rounding;
};

class EncodeCuda : public ::testing::TestWithParam<Case> {
 protected:
  Grid<float> data(std::int64_t rows, std::int64_t cols) const {
    const Grid<float> x = test::random_grid(rows, cols, static_cast<unsigned>(rows * 31 + cols));
    return {rows, cols, test::rounded_to(x.values, GetParam().dtype)};
  }

  bool is_dynamic() const { return GetParam().mode == Mode::kRows || GetParam().mode == Mode::kCols; }
  std::int64_t scales_of(std::int64_t rows, std::int64_t cols) const {
    const Mode mode = GetParam().mode;
    return mode == Mode::kGivenOne ? 1 : mode == Mode::kCols ? cols : rows;
  }
  // scales: written if they are dynamic, read if they are given (then there are no factors).
  void encode(const Exec& exec, const ConstFloatMatrix& x, const Factors& factors, const EncodeOptions& options,
              const CodesOut& out, std::span<float> scales) const {
    if (GetParam().mode == Mode::kRows)
      encode_scaled_rows(exec, x, factors, options, out, scales);
    else if (GetParam().mode == Mode::kCols)
      encode_scaled_cols(exec, x, factors, options, out, scales);
    else
      encode_with_scales(exec, x, scales, options, out);
  }

  // Codes, transposed codes and scales of x on both devices; `which`: bit 0 codes, bit 1 the transposed copy.
  void compare(const Grid<float>& x, const Factors& host_factors, const EncodeOptions& options, int which) const {
    const DType dtype = GetParam().dtype;
    SCOPED_TRACE(std::to_string(x.rows) + " x " + std::to_string(x.cols) + ", " + std::to_string(options.width.bits()) +
                 " bits, outputs " + std::to_string(which) + ", factors " +
                 std::to_string(host_factors.row_factors.size()) + " " +
                 std::to_string(host_factors.col_factors.size()));
    const std::int64_t groups = scales_of(x.rows, x.cols);
    Grid<std::int8_t> codes(x.rows, x.cols), transposed(x.cols, x.rows);
    std::vector<float> scales = test::random_factors(groups, 77);
    const DeviceFloats device_x(x.values, x.rows, x.cols, dtype);
    const DeviceBuffer<float> row_factors(host_factors.row_factors), col_factors(host_factors.col_factors);
    const Factors device_factors{row_factors.span(), col_factors.span()};
    const DeviceBuffer<std::int8_t> device_codes(x.rows * x.cols), device_transposed(x.rows * x.cols);
    const DeviceBuffer<float> given(scales), dynamic(groups);
    const CodesOut out{(which & 1) != 0 ? codes.view() : Matrix<std::int8_t>{},
                       (which & 2) != 0 ? transposed.view() : Matrix<std::int8_t>{}};
    const CodesOut device_out{(which & 1) != 0 ? device_codes.matrix(x.rows, x.cols) : Matrix<std::int8_t>{},
                              (which & 2) != 0 ? device_transposed.matrix(x.cols, x.rows) : Matrix<std::int8_t>{}};
    encode(Exec{}, x.view(), host_factors, options, out, scales);
    encode(test::cuda_exec(), device_x.view(), device_factors, options, device_out,
           is_dynamic() ? dynamic.span() : given.span());
    if (is_dynamic()) {
      EXPECT_TRUE(test::same_bits(dynamic.download(), scales));
    }
    if ((which & 1) != 0) {
      EXPECT_TRUE(same_codes(device_codes.download(), codes.values, x.cols));
    }
    if ((which & 2) != 0) {
      EXPECT_TRUE(same_codes(device_transposed.download(), transposed.values, x.rows));
    }
  }
};

TEST_P(EncodeCuda, EqualsTheCpuForShapesOfEveryPath) {
  const EncodeOptions options{.rounding = GetParam().rounding, .key = {11, 12}};
  const std::vector<Shape> shapes = {{1, 1},      {3, 5},      {33, 17},    {16, 8},     {48, 24},
                                     {64, 768},   {130, 2304}, {144, 2304}, {80, 1600},  {48, 6400},
                                     {272, 4800}, {512, 3072}, {4224, 200}, {17000, 96}, {16, 7200}};
  for (const auto& [rows, cols] : shapes)
    for (const int which : {1, 2, 3}) compare(data(rows, cols), {}, options, which);
}

TEST_P(EncodeCuda, EqualsTheCpuWhereABlockCodesSeveralTiles) {
  compare(data(136000, 16), {}, {.rounding = GetParam().rounding, .key = {13, 14}}, 3);
}

TEST_P(EncodeCuda, EqualsTheCpuForEveryWidthAndFactor) {
  for (const auto& [rows, cols] : {Shape(160, 264), Shape(37, 43)}) {
    const Grid<float> x = data(rows, cols);
    const std::vector<float> row_factors = test::random_factors(rows, 1), col_factors = test::random_factors(cols, 2);
    const std::vector<Factors> all = {{}, {row_factors, {}}, {{}, col_factors}, {row_factors, col_factors}};
    for (int bits = 2; bits <= 8; ++bits)
      for (const Factors& factors : all)
        compare(x, factors,
                {.width = BitWidth(bits),
                 .amax_floor = kGradientAmaxFloor,
                 .rounding = GetParam().rounding,
                 .key = {1ULL << 40, 7}},
                3);
  }
}

TEST_P(EncodeCuda, TreatsWhatIsNotFiniteAsTheCpuDoes) {
  for (const auto& [rows, cols] : {Shape(64, 136), Shape(9, 21)})
    for (const float bad : {kNaN, -kNaN, kInfinity, -kInfinity}) {
      Grid<float> x = data(rows, cols);
      x.at(5, 9) = bad;
      x.at(rows - 1, cols - 1) = bad;
      for (std::int64_t c = 0; c < cols; ++c) x.at(2, c) = 0.0F;
      for (std::int64_t r = 0; r < rows; ++r) x.at(r, 3) = -0.0F;
      compare(x, {}, {.rounding = GetParam().rounding, .key = {3, 4}}, 3);
    }
}

TEST_P(EncodeCuda, AcceptsUnalignedData) {
  constexpr std::int64_t kRows = 32, kCols = 64;
  const Grid<float> x = data(kRows, kCols);
  const auto shifted = [](const std::vector<float>& values) {  // by one element
    std::vector<float> result(1, 0.0F);
    result.insert(result.end(), values.begin(), values.end());
    return result;
  };
  const DeviceFloats device_x(shifted(x.values), 1, kRows * kCols + 1, GetParam().dtype);
  const auto* first = static_cast<const std::uint8_t*>(device_x.view().data) + size_of(GetParam().dtype);
  std::vector<float> want_scales = test::random_factors(scales_of(kRows, kCols), 77);
  const DeviceBuffer<float> scales(shifted(want_scales));
  const DeviceBuffer<std::int8_t> codes(kRows * kCols + 3), transposed(kRows * kCols + 5);
  const EncodeOptions options{.rounding = GetParam().rounding, .key = {3, 4}};
  encode(test::cuda_exec(), ConstFloatMatrix(first, kRows, kCols, kCols, GetParam().dtype), {}, options,
         {{codes.data() + 3, kRows, kCols}, {transposed.data() + 5, kCols, kRows}}, scales.span().subspan(1));
  Grid<std::int8_t> want(kRows, kCols), want_transposed(kCols, kRows);
  encode(Exec{}, x.view(), {}, options, {want.view(), want_transposed.view()}, want_scales);
  EXPECT_TRUE(test::same_bits(scales.download(), shifted(want_scales)));
  const std::vector<std::int8_t> got = codes.download(), got_transposed = transposed.download();
  EXPECT_TRUE(same_codes({got.begin() + 3, got.end()}, want.values, kCols));
  EXPECT_TRUE(same_codes({got_transposed.begin() + 5, got_transposed.end()}, want_transposed.values, kRows));
  EXPECT_EQ(got[2], -1);  // the poison in front is left alone
  EXPECT_EQ(got_transposed[4], -1);
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const Mode mode : {Mode::kRows, Mode::kCols, Mode::kGiven, Mode::kGivenOne})
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
      for (const Rounding rounding : {Rounding::kNearestEven, Rounding::kStochastic})
        cases.push_back({mode, dtype, rounding});
  return cases;
}

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  const char* modes[] = {"Rows", "Cols", "Given", "GivenOne"};
  return std::string(modes[static_cast<int>(info.param.mode)]) +
         (info.param.dtype == DType::kBFloat16 ? "Bf16" : "Fp32") +
         (info.param.rounding == Rounding::kStochastic ? "Stochastic" : "Nearest");
}

INSTANTIATE_TEST_SUITE_P(Kernels, EncodeCuda, ::testing::ValuesIn(all_cases()), name_of);

TEST(EncodeCudaEmpty, ColumnsWithoutRowsGetTheFloor) {
  const DeviceBuffer<float> scales(7);
  encode_cols(test::cuda_exec(), ConstFloatMatrix(nullptr, 0, 7, 7, DType::kFloat32), {}, {}, scales.span());
  EXPECT_EQ(scales.download(), std::vector<float>(7, kWeightAmaxFloor / 127.0F));
  encode_rows(test::cuda_exec(), ConstFloatMatrix(nullptr, 0, 7, 7, DType::kFloat32), {}, {}, {});
}

TEST(DecodeCuda, EqualsTheCpuRoundedToTheDtype) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
    for (const auto& [rows, cols] : {Shape(1, 1), Shape(9, 43), Shape(130, 2304)})
      for (const bool one : {false, true}) {
        const Grid<std::int8_t> codes = test::random_codes(rows, cols, 1);
        const std::vector<float> scales = test::random_factors(one ? 1 : rows, 2);
        Grid<float> want(rows, cols);
        decode_rows(Exec{}, codes.view(), scales, want.view());
        const DeviceBuffer<std::int8_t> device_codes(codes.values);
        const DeviceBuffer<float> device_scales(scales);
        const DeviceFloats x(rows, cols, dtype);
        decode_rows(test::cuda_exec(), device_codes.matrix(rows, cols), device_scales.span(), x.view());
        EXPECT_TRUE(test::same_bits(x.download(), test::rounded_to(want.values, dtype)))
            << rows << " x " << cols << (dtype == DType::kBFloat16 ? " bf16" : " fp32");
      }
}

}  // namespace
}  // namespace qat::kernels
