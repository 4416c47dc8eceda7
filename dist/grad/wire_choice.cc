#include "dist/grad/wire_choice.h"

#include "kernels/common/error.h"

namespace qat::dist {

double WireQuestion::worth() const { return one_host ? kWorthOnOneHost : kWorthAcrossHosts; }

WireFormat choose_wire(const WireQuestion& question) {
  constexpr double kAsFast = 0.99;
  QAT_CHECK(!question.times.empty() && question.times[0].format == WireFormat::kFloat32, "fp32 is what others replace");
  const double exact_s = question.step_s(question.times[0].seconds);
  WireFormat best = WireFormat::kFloat32;
  double best_s = exact_s;
  for (const WireTime& time : question.times) {
    const double step_s = question.step_s(time.seconds);
    if (step_s * question.worth() > exact_s || step_s > kAsFast * best_s) continue;
    best = time.format;
    best_s = step_s;
  }
  return best;
}

}  // namespace qat::dist
