// The operands of adapters on a GPU against the CPU, bit for bit.
#include "kernels/quant/prepare_adapters.h"

#include <gtest/gtest.h>

#include <limits>
#include <memory>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;
using test::DeviceFloats;
using test::Grid;

// The inputs and results of one layer on both devices.
struct Adapter {
  Adapter(std::int64_t r, std::int64_t k, std::int64_t n, DType dtype_in)
      : dtype(dtype_in),
        a(test::random_grid(r, k, static_cast<unsigned>(k))),
        b(test::random_grid(n, r, static_cast<unsigned>(n))),
        weight_scales(test::random_factors(n, 3)),
        a_codes(r, k),
        a_scales(static_cast<std::size_t>(r)),
        a_values(k, r),
        b_values(n, r),
        b_over_scales(n, r),
        device_weight_scales(weight_scales),
        device_a_codes(r * k),
        device_a_scales(r),
        device_a_values(k, r, dtype),
        device_b_values(n, r, dtype),
        device_b_over_scales(n, r, dtype) {}

  AdapterJob host_job(const EncodeOptions& options) {
    return {std::as_const(a).view(),
            std::as_const(b).view(),
            options,
            weight_scales,
            0.3F,
            a_codes.view(),
            a_scales,
            a_values.view(),
            b_values.view(),
            b_over_scales.view()};
  }
  AdapterJob device_job(const EncodeOptions& options) {  // after the inputs have their final values
    device_a = std::make_unique<DeviceBuffer<float>>(a.values);
    device_b = std::make_unique<DeviceBuffer<float>>(b.values);
    return {device_a->matrix(a.rows, a.cols),
            device_b->matrix(b.rows, b.cols),
            options,
            device_weight_scales.span(),
            0.3F,
            device_a_codes.matrix(a.rows, a.cols),
            device_a_scales.span(),
            device_a_values.view(),
            device_b_values.view(),
            device_b_over_scales.view()};
  }
  void compare() const {
    SCOPED_TRACE("A " + std::to_string(a.rows) + " x " + std::to_string(a.cols) + ", B of " + std::to_string(b.rows) +
                 " rows");
    EXPECT_EQ(device_a_codes.download(), a_codes.values);
    EXPECT_TRUE(test::same_bits(device_a_scales.download(), a_scales));
    EXPECT_TRUE(test::same_bits(device_a_values.download(), a_values.values));
    EXPECT_TRUE(test::same_bits(device_b_values.download(), test::rounded_to(b_values.values, dtype)));
    EXPECT_TRUE(test::same_bits(device_b_over_scales.download(), test::rounded_to(b_over_scales.values, dtype)));
  }

  DType dtype;
  Grid<float> a, b;
  std::vector<float> weight_scales;
  Grid<std::int8_t> a_codes;
  std::vector<float> a_scales;
  Grid<float> a_values, b_values, b_over_scales;
  std::unique_ptr<DeviceBuffer<float>> device_a, device_b;
  DeviceBuffer<float> device_weight_scales;
  DeviceBuffer<std::int8_t> device_a_codes;
  DeviceBuffer<float> device_a_scales;
  DeviceFloats device_a_values, device_b_values, device_b_over_scales;
};

class PrepareAdaptersCuda : public ::testing::TestWithParam<DType> {
 protected:
  struct Layer {
    std::int64_t r, k, n;
  };
  using Adapters = std::vector<std::unique_ptr<Adapter>>;

  static Adapters adapters_of(const std::vector<Layer>& layers) {
    Adapters adapters;
    for (const auto& [r, k, n] : layers) adapters.push_back(std::make_unique<Adapter>(r, k, n, GetParam()));
    return adapters;
  }
  // All layers in one call, their widths in turn those of `bits`.
  static void compare(const Adapters& adapters, const std::vector<int>& bits) {
    std::vector<AdapterJob> host, device;
    for (std::size_t i = 0; i < adapters.size(); ++i) {
      const EncodeOptions options{.width = BitWidth(bits[i % bits.size()])};
      host.push_back(adapters[i]->host_job(options));
      device.push_back(adapters[i]->device_job(options));
    }
    prepare_adapters(Exec{}, host);
    prepare_adapters(test::cuda_exec(), device);
    for (const auto& adapter : adapters) adapter->compare();
  }
};

TEST_P(PrepareAdaptersCuda, EqualsTheCpuForLayersOfManyShapes) {
  compare(adapters_of({{16, 768, 2304},
                       {16, 768, 768},
                       {8, 8, 1},
                       {16, 3072, 768},
                       {24, 40, 65},
                       {64, 1600, 129},
                       {40, 264, 64},
                       {8, 6400, 600},
                       {32, 2056, 257},
                       {16, 16, 0}}),
          {8, 4, 2, 7});
}

TEST_P(PrepareAdaptersCuda, TakesMoreLayersThanOneLaunchDoes) {
  std::vector<Layer> layers;
  for (std::int64_t i = 0; i < 200; ++i) layers.push_back({8 + 8 * (i % 2), 16 + 8 * (i % 3), 3 + i % 7});
  compare(adapters_of(layers), {8, 3, 5});
}

TEST_P(PrepareAdaptersCuda, TreatsZerosAndNonFiniteRowsAsTheCpuDoes) {
  const Adapters adapters = adapters_of({{16, 776, 40}, {24, 64, 40}});
  for (const auto& adapter : adapters) {
    adapter->a.at(0, 5) = std::numeric_limits<float>::infinity();
    adapter->a.at(11, adapter->a.cols - 1) = std::numeric_limits<float>::quiet_NaN();
    adapter->b.at(3, 15) = -std::numeric_limits<float>::infinity();
    adapter->b.at(4, 0) = std::numeric_limits<float>::quiet_NaN();
    for (std::int64_t c = 0; c < adapter->a.cols; ++c) adapter->a.at(2, c) = 0.0F;
    for (std::int64_t c = 0; c < adapter->b.cols; ++c) adapter->b.at(9, c) = -0.0F;
  }
  compare(adapters, {8});
}

TEST_P(PrepareAdaptersCuda, RefusesRanksThatItsKernelDoesNotTake) {
  for (const std::int64_t rank : {4, 72}) {
    Adapter adapter(rank, 16, 8, GetParam());
    const std::vector<AdapterJob> jobs{adapter.device_job({})};
    EXPECT_NE(test::error_of(ErrorKind::kInternal, [&] { prepare_adapters(test::cuda_exec(), jobs); }).find("not fit"),
              std::string::npos);
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, PrepareAdaptersCuda, ::testing::Values(DType::kFloat32, DType::kBFloat16),
                         [](const auto& test_case) {
                           return std::string(test_case.param == DType::kBFloat16 ? "Bf16" : "Fp32");
                         });

}  // namespace
}  // namespace qat::kernels
