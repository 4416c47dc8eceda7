// Random numbers by purpose: a pure function of (seed, purpose, step, micro-batch, slot), so that a run's draws do not
// depend on how many ranks or threads draw them, nor on what was drawn before.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/common/philox.h"

namespace qat {

// Part of what a key is made of: a value keeps its meaning for ever, or old runs could not be resumed.
enum class RngPurpose : std::uint32_t {
  kInit = 1,              // slot: the parameter
  kSampling = 2,          // which windows a step sees
  kDropout = 3,           // slot: the place in the network
  kGradientRounding = 4,  // stochastic rounding of backward's gradients; slot: the layer
  kSync = 5,              // stochastic rounding on the wire; slot: the bucket
  kGeneration = 6,        // sampling of text
  kRecipe = 7,            // which widths a step trains, which hidden states are compared; slot: which of both
  kSwitching = 8,         // a random precision schedule; step: the interval
  kGradientNoise = 9,     // on an update's gradients; slot: the parameter
  kRobustness = 10,       // what disturbs an evaluation's inputs; step: the window, slot: the disturbance
};

// What stands for `micro_batch` below when a step has several passes over it (one for each of several widths, say):
// they must not share their draws. That of the first pass is the micro-batch's number itself.
constexpr std::uint64_t pass_of(std::uint64_t micro_batch, std::uint64_t pass) { return micro_batch + (pass << 32U); }

// The stream for one use. Where a part has no meaning (kInit has no step), pass 0.
kernels::RngKey rng_key(std::uint64_t seed, RngPurpose purpose, std::uint64_t step = 0, std::uint64_t micro_batch = 0,
                        std::uint64_t slot = 0);

// The slot of a parameter: FNV-1a of its name alone, so that adding a layer changes no other's draws.
std::uint64_t name_slot(std::string_view name);

// out[i] is draw `first + i` of the stream, uniform in [low, high).
void fill_uniform(kernels::RngKey key, float low, float high, std::span<float> out, std::uint64_t first = 0);

// out[i] is draw `first + i` of the stream, normal with mean 0; |out[i]| <= 6.67 stddev. Box-Muller in double, with
// nothing but IEEE operations (no C library functions, which differ between machines): the same bits everywhere.
void fill_normal(kernels::RngKey key, float stddev, std::span<float> out, std::uint64_t first = 0);

}  // namespace qat
