#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>

#include "kernels/common/cuda_check.h"
#include "kernels/common/device_scratch.h"
#include "kernels/grad/parts_tree.cuh"
#include "kernels/grad/tree_sum.h"
#include "kernels/grad/wire_codes_cuda.h"

namespace qat::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarpsPerCta = kThreads / 32;

unsigned grid_for(std::int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

struct Scale {
  float scale, inverse;
  bool finite;
};
__device__ __forceinline__ Scale scale_of(float amax, float q_max) {
  if (!isfinite(amax)) return {__int_as_float(0x7FC00000), 0.0F, false};
  const float scale = __fdiv_rn(fmaxf(amax, kWireAmaxFloor), q_max);
  return {scale, __frcp_rn(scale), true};
}

// x + residual, whose bits CPU and GPU agree on.
struct Source {
  const float* x;
  const float* residual;  // or null
  __device__ __forceinline__ float operator()(std::int64_t i) const {
    return residual == nullptr ? x[i] : __fadd_rn(x[i], residual[i]);
  }
};

// A warp a block.
__global__ void __launch_bounds__(kThreads)
    amax_kernel(Source source, WireShape shape, std::int64_t blocks, float* amax) {
  const std::int64_t b = static_cast<std::int64_t>(blockIdx.x) * kWarpsPerCta + threadIdx.x / 32;
  if (b >= shape.parts * blocks) return;
  const std::int64_t part = b / blocks, block = b % blocks;
  const std::int64_t begin = block * shape.block;
  const std::int64_t end = begin + shape.block < shape.elems ? begin + shape.block : shape.elems;
  int most = 0;
  for (std::int64_t i = begin + threadIdx.x % 32; i < end; i += 32) {
    const int bits = __float_as_int(source(part * shape.elems + i)) & 0x7FFFFFFF;
    most = most > bits ? most : bits;
  }
  most = __reduce_max_sync(~0U, most);
  if (threadIdx.x % 32 == 0) amax[shape.message_of(part) * blocks + block] = __int_as_float(most);
}

struct Encoder {
  Source source;
  const float* amax;  // [parts * blocks]
  float* left;        // or null
  WireRounding rounding;
  WireShape shape;
  std::int64_t blocks;
  float q_max;

  // The code of element i of a part.
  __device__ __forceinline__ int operator()(std::int64_t part, std::int64_t i) const {
    const std::int64_t index = part * shape.elems + i;
    const float y = source(index);
    const Scale scale = scale_of(amax[shape.message_of(part) * blocks + i / shape.block], q_max);
    float code = 0.0F;
    if (scale.finite) {
      const float exact = __fmul_rn(y, scale.inverse);
      const float rounded =
          rounding.stochastic
              ? floorf(__fadd_rn(exact, uniform_at(rounding.key, rounding.first + static_cast<std::uint64_t>(index))))
              : rintf(exact);
      code = fminf(fmaxf(rounded, -q_max), q_max);
    }
    if (left != nullptr) left[index] = __fsub_rn(y, __fmul_rn(code, scale.scale));
    return static_cast<int>(code);
  }
};

// kCodes consecutive codes a thread; `threads` of them a part.
template <int kCodes>
__global__ void __launch_bounds__(kThreads)
    encode_int8_kernel(Encoder encoder, std::int64_t threads, std::uint8_t* messages) {
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= encoder.shape.parts * threads) return;
  const std::int64_t part = t / threads, i = t % threads * kCodes;
  std::uint8_t* const to = messages + encoder.shape.message_of(part) * encoder.shape.elems + i;
  if constexpr (kCodes == 4) {
    std::uint32_t word = 0;
#pragma unroll
    for (int c = 0; c < 4; ++c) word |= static_cast<std::uint32_t>(encoder(part, i + c) & 0xFF) << (8 * c);
    *reinterpret_cast<std::uint32_t*>(to) = word;
  } else {
    *to = static_cast<std::uint8_t>(encoder(part, i) & 0xFF);
  }
}

// A byte of two codes a thread.
__global__ void __launch_bounds__(kThreads)
    encode_int4_kernel(Encoder encoder, std::int64_t bytes, std::uint8_t* messages) {
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= encoder.shape.parts * bytes) return;
  const std::int64_t part = t / bytes, i = t % bytes * 2;
  unsigned byte = static_cast<unsigned>(encoder(part, i) & 0xF);
  if (i + 1 < encoder.shape.elems) byte |= static_cast<unsigned>(encoder(part, i + 1) & 0xF) << 4;
  messages[encoder.shape.message_of(part) * bytes + t % bytes] = static_cast<std::uint8_t>(byte);
}

__device__ __forceinline__ std::uint16_t to_bf16(float value) {
  if (isnan(value)) return 0x7FFF;
  const unsigned bits = __float_as_uint(value);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}
__device__ __forceinline__ float from_bf16(std::uint16_t value) {
  return __uint_as_float(static_cast<unsigned>(value) << 16);
}

template <bool kBFloat16>
__global__ void __launch_bounds__(kThreads)
    encode_floats_kernel(Source source, WireShape shape, std::uint8_t* messages, float* left) {
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= shape.parts * shape.elems) return;
  const std::int64_t part = t / shape.elems, i = t % shape.elems;
  const float y = source(t);
  const std::int64_t to = shape.message_of(part) * shape.elems + i;
  float value = y;
  if constexpr (kBFloat16) {
    const std::uint16_t code = to_bf16(y);
    reinterpret_cast<std::uint16_t*>(messages)[to] = code;
    value = from_bf16(code);
  } else {
    reinterpret_cast<float*>(messages)[to] = y;
  }
  if (left != nullptr) left[t] = __fsub_rn(y, value);
}

__device__ __forceinline__ int int4_at(const std::uint8_t* codes, std::int64_t i) {
  const int byte = static_cast<std::int8_t>(codes[i / 2]);
  return i % 2 == 0 ? static_cast<std::int8_t>(byte << 4) >> 4 : byte >> 4;
}

template <WireInteger kType>
__device__ __forceinline__ int code_at(const std::uint8_t* codes, std::int64_t i) {
  if constexpr (kType == WireInteger::kInt4) return int4_at(codes, i);
  if constexpr (kType == WireInteger::kInt8) return reinterpret_cast<const std::int8_t*>(codes)[i];
  if constexpr (kType == WireInteger::kInt16) return reinterpret_cast<const std::int16_t*>(codes)[i];
  if constexpr (kType == WireInteger::kInt32) return reinterpret_cast<const std::int32_t*>(codes)[i];
}

// What element i of a part stands for.
template <WireFormat kFormat>
struct Decoder {
  const std::uint8_t* messages;
  const float* amax;
  WireShape shape;
  std::int64_t part_bytes, blocks;

  __device__ __forceinline__ float operator()(int part, std::int64_t i) const {
    const std::uint8_t* const message = messages + part * part_bytes;
    if constexpr (kFormat == WireFormat::kBFloat16) {
      return from_bf16(reinterpret_cast<const std::uint16_t*>(message)[i]);
    } else if constexpr (kFormat == WireFormat::kFloat32) {
      return reinterpret_cast<const float*>(message)[i];
    } else {
      const float scale =
          scale_of(amax[part * blocks + i / shape.block], static_cast<float>(wire_q_max(kFormat))).scale;
      return __fmul_rn(static_cast<float>(code_at<integer_of(kFormat)>(message, i)), scale);
    }
  }
};

// Parts [first, first + parts), of which kMost / 2 < parts <= kMost.
template <int kMost, WireFormat kFormat>
__global__ void __launch_bounds__(kThreads)
    wire_sum_kernel(Decoder<kFormat> decoder, int first, int parts, float* sum) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= decoder.shape.elems) return;
  sum[i] = parts_tree<kMost>([&](int part) { return decoder(first + part, i); }, parts);
}

template <WireFormat kFormat>
void sum_format(const Exec& exec, const Decoder<kFormat>& decoder, float* sum) {
  const cudaStream_t stream = cuda_stream(exec);
  const auto sum_group = [&](std::int64_t first, std::int64_t parts, float* to) {
    with_tree_of(static_cast<int>(parts), [&](auto most) {
      wire_sum_kernel<most(), kFormat><<<grid_for(decoder.shape.elems), kThreads, 0, stream>>>(
          decoder, static_cast<int>(first), static_cast<int>(parts), to);
    });
    QAT_CUDA_CHECK(cudaGetLastError());
  };
  const std::int64_t parts = decoder.shape.parts, elems = decoder.shape.elems;
  if (parts <= kMostTreeParts) return sum_group(0, parts, sum);
  // Groups of 64 neighbours are whole subtrees (but for the last): their sums are the leaves of the rest of the tree.
  const std::int64_t groups = (parts + kMostTreeParts - 1) / kMostTreeParts;
  const DeviceScratch<float> partial(exec, groups * elems);
  for (std::int64_t group = 0; group < groups; ++group) {
    const std::int64_t first = group * kMostTreeParts;
    sum_group(first, std::min<std::int64_t>(kMostTreeParts, parts - first), partial.get() + group * elems);
  }
  tree_sum(exec, {partial.get(), static_cast<std::size_t>(groups * elems)}, groups,
           {sum, static_cast<std::size_t>(elems)});
}

template <WireInteger kType>
__device__ __forceinline__ int code_sum_at(const std::uint8_t* codes, std::int64_t part_bytes, std::int64_t parts,
                                           std::int64_t i) {
  int sum = 0;
  for (std::int64_t part = 0; part < parts; ++part) sum += code_at<kType>(codes + part * part_bytes, i);
  return sum;
}

template <WireInteger kType, typename Sum>
__global__ void __launch_bounds__(kThreads) sum_codes_kernel(const std::uint8_t* codes, std::int64_t part_bytes,
                                                             std::int64_t parts, std::int64_t elems, Sum* sums) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < elems) sums[i] = static_cast<Sum>(code_sum_at<kType>(codes, part_bytes, parts, i));
}

template <WireInteger kType>
__global__ void __launch_bounds__(kThreads)
    scale_codes_kernel(const std::uint8_t* codes, std::int64_t part_bytes, std::int64_t parts, const float* amax,
                       WireShape shape, float q_max, float* values) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= shape.elems) return;
  const float scale = scale_of(amax[i / shape.block], q_max).scale;
  values[i] = __fmul_rn(static_cast<float>(code_sum_at<kType>(codes, part_bytes, parts, i)), scale);
}

// use(std::integral_constant<WireInteger, type>).
template <typename Use>
void with_integer(WireInteger type, const Use& use) {
  switch (type) {
    case WireInteger::kInt4:
      return use(std::integral_constant<WireInteger, WireInteger::kInt4>());
    case WireInteger::kInt8:
      return use(std::integral_constant<WireInteger, WireInteger::kInt8>());
    case WireInteger::kInt16:
      return use(std::integral_constant<WireInteger, WireInteger::kInt16>());
    case WireInteger::kInt32:
      return use(std::integral_constant<WireInteger, WireInteger::kInt32>());
  }
}

Source source_of(std::span<const float> x, std::span<const float> residual) {
  return {x.data(), residual.empty() ? nullptr : residual.data()};
}

}  // namespace

void wire_amax_cuda(const Exec& exec, std::span<const float> x, std::span<const float> residual, const WireShape& shape,
                    std::span<float> amax) {
  const std::int64_t blocks = shape.blocks();
  amax_kernel<<<grid_for(shape.parts * blocks * 32), kThreads, 0, cuda_stream(exec)>>>(source_of(x, residual), shape,
                                                                                       blocks, amax.data());
  QAT_CUDA_CHECK(cudaGetLastError());
}

void wire_encode_cuda(const Exec& exec, std::span<const float> x, std::span<const float> residual,
                      std::span<const float> amax, const WireShape& shape, const WireRounding& rounding,
                      std::span<std::uint8_t> messages, std::span<float> left) {
  const cudaStream_t stream = cuda_stream(exec);
  float* const rest = left.empty() ? nullptr : left.data();
  const Encoder encoder{.source = source_of(x, residual),
                        .amax = amax.data(),
                        .left = rest,
                        .rounding = rounding,
                        .shape = shape,
                        .blocks = shape.blocks(),
                        .q_max = static_cast<float>(wire_q_max(shape.format))};
  const std::int64_t all = shape.parts * shape.elems, bytes = shape.part_bytes();
  switch (shape.format) {
    case WireFormat::kFloat32:
      encode_floats_kernel<false><<<grid_for(all), kThreads, 0, stream>>>(encoder.source, shape, messages.data(), rest);
      break;
    case WireFormat::kBFloat16:
      encode_floats_kernel<true><<<grid_for(all), kThreads, 0, stream>>>(encoder.source, shape, messages.data(), rest);
      break;
    case WireFormat::kInt8:
      if (shape.elems % 4 == 0 && reinterpret_cast<std::uintptr_t>(messages.data()) % 4 == 0)
        encode_int8_kernel<4><<<grid_for(all / 4), kThreads, 0, stream>>>(encoder, shape.elems / 4, messages.data());
      else
        encode_int8_kernel<1><<<grid_for(all), kThreads, 0, stream>>>(encoder, shape.elems, messages.data());
      break;
    case WireFormat::kInt4:
      encode_int4_kernel<<<grid_for(shape.parts * bytes), kThreads, 0, stream>>>(encoder, bytes, messages.data());
      break;
  }
  QAT_CUDA_CHECK(cudaGetLastError());
}

void wire_sum_cuda(const Exec& exec, std::span<const std::uint8_t> messages, std::span<const float> amax,
                   const WireShape& shape, std::span<float> sum) {
  const auto run = [&](auto format) {
    sum_format<format()>(
        exec, Decoder<format()>{messages.data(), amax.data(), shape, shape.part_bytes(), shape.blocks()}, sum.data());
  };
  switch (shape.format) {
    case WireFormat::kFloat32:
      return run(std::integral_constant<WireFormat, WireFormat::kFloat32>());
    case WireFormat::kBFloat16:
      return run(std::integral_constant<WireFormat, WireFormat::kBFloat16>());
    case WireFormat::kInt8:
      return run(std::integral_constant<WireFormat, WireFormat::kInt8>());
    case WireFormat::kInt4:
      return run(std::integral_constant<WireFormat, WireFormat::kInt4>());
  }
}

void sum_codes_cuda(const Exec& exec, std::span<const std::uint8_t> codes, WireInteger type, std::int64_t parts,
                    std::int64_t elems, std::span<std::uint8_t> sums, WireInteger sum_type) {
  const cudaStream_t stream = cuda_stream(exec);
  with_integer(type, [&](auto in) {
    const auto run = [&](auto* to) {
      sum_codes_kernel<in()>
          <<<grid_for(elems), kThreads, 0, stream>>>(codes.data(), bytes_of(type, elems), parts, elems, to);
    };
    if (sum_type == WireInteger::kInt8) run(reinterpret_cast<std::int8_t*>(sums.data()));
    if (sum_type == WireInteger::kInt16) run(reinterpret_cast<std::int16_t*>(sums.data()));
    if (sum_type == WireInteger::kInt32) run(reinterpret_cast<std::int32_t*>(sums.data()));
  });
  QAT_CUDA_CHECK(cudaGetLastError());
}

void scale_codes_cuda(const Exec& exec, std::span<const std::uint8_t> codes, WireInteger type, std::int64_t parts,
                      std::span<const float> amax, const WireShape& shape, std::span<float> values) {
  const cudaStream_t stream = cuda_stream(exec);
  with_integer(type, [&](auto in) {
    scale_codes_kernel<in()><<<grid_for(shape.elems), kThreads, 0, stream>>>(
        codes.data(), bytes_of(type, shape.elems), parts, amax.data(), shape,
        static_cast<float>(wire_q_max(shape.format)), values.data());
  });
  QAT_CUDA_CHECK(cudaGetLastError());
}

}  // namespace qat::kernels
