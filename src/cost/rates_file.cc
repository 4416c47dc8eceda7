#include "src/cost/rates_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "src/base/file.h"
#include "src/base/json.h"

namespace qat {
namespace {

constexpr int kVersion = 2;

struct RateKey {
  const char* key;
  double DeviceRates::*member;
  bool may_be_zero = false;
};

// Operations, bytes and seconds as in DeviceRates.
constexpr std::array kRateKeys{RateKey{"code_products", &DeviceRates::code_products},
                               RateKey{"wide_products", &DeviceRates::wide_products},
                               RateKey{"bf16_products", &DeviceRates::bf16_products},
                               RateKey{"head_products", &DeviceRates::head_products},
                               RateKey{"tf32_products", &DeviceRates::tf32_products},
                               RateKey{"fp32_products", &DeviceRates::fp32_products},
                               RateKey{"attention_forward", &DeviceRates::attention_forward},
                               RateKey{"attention_backward", &DeviceRates::attention_backward},
                               RateKey{"repeatable_attention_backward", &DeviceRates::repeatable_attention_backward},
                               RateKey{"bytes", &DeviceRates::bytes},
                               RateKey{"part_forward_s", &DeviceRates::part_forward_s, true},
                               RateKey{"part_backward_s", &DeviceRates::part_backward_s, true},
                               RateKey{"edge_parts", &DeviceRates::edge_parts, true},
                               RateKey{"row_forward_s", &DeviceRates::row_forward_s, true},
                               RateKey{"row_backward_s", &DeviceRates::row_backward_s, true}};

double number(const Value& object, const char* key, bool may_be_zero) {
  const Value& value = object.at(key);
  const double number = value.as_double();
  if (std::isfinite(number) && (may_be_zero ? number >= 0.0 : number > 0.0)) return number;
  throw Error(ErrorKind::kConfig,
              fmt::format("{}: {} = {}: expected a number {} 0; `qat_dist doctor --save` writes the "
                          "file anew",
                          value.where(), key, number, may_be_zero ? "of at least" : "above"));
}

void refuse_unknown(const Value& object, const std::vector<std::string>& known) {
  for (const Value::Member& member : object.as_object())
    if (std::find(known.begin(), known.end(), member.key) == known.end())
      throw Error(ErrorKind::kConfig,
                  fmt::format("{}: unknown key \"{}\" in a file of rates", object.where(member.line), member.key));
}

}  // namespace

std::string rates_text(const MeasuredDevice& measured) {
  Value rates = Value::object();
  for (const RateKey& key : kRateKeys) rates.set(key.key, measured.rates.*key.member);
  return to_json(Value::object({{"version", kVersion},
                                {"device", measured.device},
                                {"cuda", measured.cuda},
                                {"host", measured.host},
                                {"made", measured.made},
                                {"memory_bytes", measured.memory_bytes},
                                {"cores", measured.cores},
                                {"rates", rates},
                                {"links", Value::object({{"node_bytes", measured.links.node_bytes},
                                                         {"network_bytes", measured.links.network_bytes},
                                                         {"node_latency_s", measured.links.node_latency_s},
                                                         {"network_latency_s", measured.links.network_latency_s}})}}),
                 2) +
         "\n";
}

MeasuredDevice read_rates(const std::filesystem::path& path) {
  const Value file = parse_json(read_file(path, ErrorKind::kConfig), path.string());
  if (const Value& version = file.at("version"); version.as_int() != kVersion)
    throw Error(ErrorKind::kConfig, fmt::format("{}: version = {}: expected {}, as this program's `qat_dist doctor "
                                                "--save` writes it",
                                                version.where(), version.as_int(), kVersion));
  refuse_unknown(file, {"version", "device", "cuda", "host", "made", "memory_bytes", "cores", "rates", "links"});
  MeasuredDevice measured{.device = file.at("device").as_string(),
                          .cuda = file.at("cuda").as_bool(),
                          .host = file.at("host").as_string(),
                          .made = file.at("made").as_string(),
                          .memory_bytes = file.at("memory_bytes").as_int(),
                          .cores = static_cast<int>(file.at("cores").as_int())};
  if (measured.memory_bytes <= 0)
    throw Error(ErrorKind::kConfig, fmt::format("{}: memory_bytes = {}: expected bytes above 0",
                                                file.at("memory_bytes").where(), measured.memory_bytes));
  const Value& rates = file.at("rates");
  std::vector<std::string> known;
  for (const RateKey& key : kRateKeys) {
    measured.rates.*key.member = number(rates, key.key, key.may_be_zero);
    known.emplace_back(key.key);
  }
  refuse_unknown(rates, known);
  const Value& links = file.at("links");
  refuse_unknown(links, {"node_bytes", "network_bytes", "node_latency_s", "network_latency_s"});
  measured.links = {.node_bytes = number(links, "node_bytes", true),
                    .network_bytes = number(links, "network_bytes", true),
                    .node_latency_s = number(links, "node_latency_s", true),
                    .network_latency_s = number(links, "network_latency_s", true)};
  measured.rates.name = measured.device;
  measured.rates.source = fmt::format("measured on {}, {}", measured.host, measured.made);
  return measured;
}

}  // namespace qat
