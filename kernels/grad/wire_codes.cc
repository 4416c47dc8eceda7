#include "kernels/grad/wire_codes.h"

#include <limits>
#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/grad/wire_codes_cpu.h"
#include "kernels/grad/wire_codes_cuda.h"

namespace qat::kernels {
namespace {

void check(const WireShape& shape) {
  QAT_CHECK(shape.parts >= 1 && shape.elems >= 0 && shape.block >= 1,
            std::to_string(shape.parts) + " parts of " + std::to_string(shape.elems) + " in blocks of " +
                std::to_string(shape.block));
  QAT_CHECK(shape.places >= 0 && (shape.places == 0 || shape.parts % shape.places == 0),
            std::to_string(shape.parts) + " parts at " + std::to_string(shape.places) + " places");
}

void check_length(std::int64_t found, std::int64_t wanted, const char* what) {
  QAT_CHECK(found == wanted,
            std::string(what) + " has " + std::to_string(found) + " elements, not " + std::to_string(wanted));
}

void check_values(std::span<const float> x, std::span<const float> residual, const WireShape& shape) {
  check(shape);
  check_length(length(x), shape.parts * shape.elems, "x");
  if (!residual.empty()) check_length(length(residual), length(x), "residual");
}

std::int64_t largest(WireInteger type) {
  switch (type) {
    case WireInteger::kInt4:
      return 7;
    case WireInteger::kInt8:
      return std::numeric_limits<std::int8_t>::max();
    case WireInteger::kInt16:
      return std::numeric_limits<std::int16_t>::max();
    case WireInteger::kInt32:
      return std::numeric_limits<std::int32_t>::max();
  }
  return 0;
}

}  // namespace

WireInteger integer_for_sum(WireFormat format, std::int64_t codes) {
  const std::int64_t sum = codes * wire_q_max(format);
  for (const WireInteger type : {WireInteger::kInt8, WireInteger::kInt16, WireInteger::kInt32})
    if (sum <= largest(type)) return type;
  QAT_CHECK(false, "the sum of " + std::to_string(codes) + " codes would overflow 32 bits");
}

void wire_amax(const Exec& exec, std::span<const float> x, std::span<const float> residual, const WireShape& shape,
               std::span<float> amax) {
  check_values(x, residual, shape);
  check_length(length(amax), shape.parts * shape.blocks(), "amax");
  if (amax.empty()) return;
  dispatch(
      exec, "wire_amax", [&] { wire_amax_cpu(exec, x, residual, shape, amax); },
      [&] { wire_amax_cuda(exec, x, residual, shape, amax); });
}

void wire_encode(const Exec& exec, std::span<const float> x, std::span<const float> residual,
                 std::span<const float> amax, const WireShape& shape, const WireRounding& rounding,
                 std::span<std::uint8_t> messages, std::span<float> left) {
  check_values(x, residual, shape);
  if (has_codes(shape.format)) check_length(length(amax), shape.parts * shape.blocks(), "amax");
  check_length(length(messages), shape.parts * shape.part_bytes(), "messages");
  if (!left.empty()) check_length(length(left), length(x), "left");
  if (x.empty()) return;
  dispatch(
      exec, "wire_encode", [&] { wire_encode_cpu(exec, x, residual, amax, shape, rounding, messages, left); },
      [&] { wire_encode_cuda(exec, x, residual, amax, shape, rounding, messages, left); });
}

void wire_sum(const Exec& exec, std::span<const std::uint8_t> messages, std::span<const float> amax,
              const WireShape& shape, std::span<float> sum) {
  check(shape);
  check_length(length(messages), shape.parts * shape.part_bytes(), "messages");
  if (has_codes(shape.format)) check_length(length(amax), shape.parts * shape.blocks(), "amax");
  check_length(length(sum), shape.elems, "sum");
  if (sum.empty()) return;
  dispatch(
      exec, "wire_sum", [&] { wire_sum_cpu(exec, messages, amax, shape, sum); },
      [&] { wire_sum_cuda(exec, messages, amax, shape, sum); });
}

void sum_codes(const Exec& exec, std::span<const std::uint8_t> codes, WireInteger type, std::int64_t parts,
               std::int64_t elems, std::span<std::uint8_t> sums, WireInteger sum_type) {
  check_length(length(codes), parts * bytes_of(type, elems), "codes");
  check_length(length(sums), bytes_of(sum_type, elems), "sums");
  QAT_CHECK(sum_type != WireInteger::kInt4, "sums have at least 8 bits");
  if (sums.empty()) return;
  dispatch(
      exec, "sum_codes", [&] { sum_codes_cpu(exec, codes, type, parts, elems, sums, sum_type); },
      [&] { sum_codes_cuda(exec, codes, type, parts, elems, sums, sum_type); });
}

void scale_codes(const Exec& exec, std::span<const std::uint8_t> codes, WireInteger type, std::int64_t parts,
                 std::span<const float> amax, const WireShape& shape, std::span<float> values) {
  check(shape);
  QAT_CHECK(has_codes(shape.format), "only codes have scales");
  check_length(length(codes), parts * bytes_of(type, shape.elems), "codes");
  check_length(length(amax), shape.blocks(), "amax");
  check_length(length(values), shape.elems, "values");
  if (values.empty()) return;
  dispatch(
      exec, "scale_codes", [&] { scale_codes_cpu(exec, codes, type, parts, amax, shape, values); },
      [&] { scale_codes_cuda(exec, codes, type, parts, amax, shape, values); });
}

}  // namespace qat::kernels
