#include "src/doctor/facts.h"

namespace qat {
namespace {

// The one list of the fields: body(key, member) for each.
template <typename Facts, typename Body>
void each_field(Facts& f, const Body& body) {
  body("rank", f.rank);
  body("host", f.host);
  body("local_rank", f.local_rank);
  body("local_size", f.local_size);
  body("version", f.version);
  body("build", f.build);
  body("compiler", f.compiler);
  body("libtorch", f.libtorch);
  body("mpi", f.mpi);
  body("cuda_runtime", f.cuda_runtime);
  body("cuda_driver", f.cuda_driver);
  body("nccl_built", f.nccl_built);
  body("nccl_loaded", f.nccl_loaded);
  body("cores", f.cores);
  body("allowed_cores", f.allowed_cores);
  body("load", f.load);
  body("memory_free", f.memory_free);
  body("memory_source", f.memory_source);
  body("shared_folder", f.shared_folder);
  body("shared_free", f.shared_free);
  body("shared_needed", f.shared_needed);
  body("open_files", f.open_files);
  body("locked_memory", f.locked_memory);
  body("cpu_governor", f.cpu_governor);
  body("clock_ahead_s", f.clock_ahead_s);
  body("clock_error_s", f.clock_error_s);
  body("folder", f.folder);
  body("folder_type", f.folder_type);
  body("folder_problem", f.folder_problem);
  body("folder_free", f.folder_free);
  body("folder_sync_s", f.folder_sync_s);
  body("interfaces", f.interfaces);
  body("launcher", f.launcher);
  body("slurm_job", f.slurm_job);
  body("slurm_cpus_per_task", f.slurm_cpus_per_task);
  body("variables", f.variables);
  body("gpus_seen", f.gpus_seen);
  body("gpu", f.gpu);
  body("gpu_id", f.gpu_id);
  body("gpu_problem", f.gpu_problem);
  body("gpu_memory", f.gpu_memory);
  body("gpu_memory_free", f.gpu_memory_free);
  body("code_products", f.code_products);
  body("float_products", f.float_products);
  body("copy_bytes", f.copy_bytes);
  body("known_code_products", f.known_code_products);
  body("known_float_products", f.known_float_products);
}

void read(const Value& value, std::int64_t& out) { out = value.as_int(); }
void read(const Value& value, double& out) { out = value.as_double(); }
void read(const Value& value, std::string& out) { out = value.as_string(); }
void read(const Value& value, std::vector<std::string>& out) {
  for (const Value& item : value.as_array()) out.push_back(item.as_string());
}

Value written(std::int64_t value) { return value; }
Value written(double value) { return value; }
Value written(const std::string& value) { return value; }
Value written(const std::vector<std::string>& value) { return Value::array(value); }

}  // namespace

Value to_value(const RankFacts& facts) {
  Value value = Value::object();
  each_field(facts, [&](const char* key, const auto& member) { value.set(key, written(member)); });
  return value;
}

RankFacts facts_of(const Value& value) {
  RankFacts facts;
  each_field(facts, [&](const char* key, auto& member) { read(value.at(key), member); });
  return facts;
}

Value to_value(const LinkFacts& links) {
  Value ring = Value::array();
  for (const LinkFacts::Neighbours& pair : links.ring)
    ring.push_back(Value::object({{"from", pair.from},
                                  {"to", pair.to},
                                  {"same_host", pair.same_host},
                                  {"bytes_per_second", pair.bytes},
                                  {"latency_seconds", pair.latency_s}}));
  return Value::object({{"backend", links.backend},
                        {"node_bytes_per_second", links.node_bytes},
                        {"network_bytes_per_second", links.network_bytes},
                        {"known_node_bytes_per_second", links.known_node_bytes},
                        {"neighbours", ring}});
}

}  // namespace qat
