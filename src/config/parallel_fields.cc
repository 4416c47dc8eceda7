#include "src/config/parallel_fields.h"

#include "src/config/field_rules.h"

namespace qat {

using rules::any;
using rules::between;
using rules::key;
using rules::kMostOfAny;
using rules::list;

void add_parallel_fields(std::vector<Field<RunConfig>>& f) {
  using R = RunConfig;
  using P = ParallelConfig;
  f.push_back(key("parallel.data", at(&R::parallel, &P::data), between(0, kMostOfAny), "ranks",
                  "data-parallel ranks; 0: all ranks / parallel.pipeline", {"dp", "data_parallel", "dp_size"}));
  f.push_back(key("parallel.pipeline", at(&R::parallel, &P::pipeline), between(1, kMostOfAny), "stages",
                  "pipeline stages", {"pp", "pipeline_parallel", "pp_size"}));
  f.push_back(
      key("parallel.schedule", at(&R::parallel, &P::schedule), any(), "",
          "in which order a stage takes its passes: 1f1b: backward as soon as it can, so that few micro-batches "
          "are in flight; gpipe: all forward, then all backward; interleaved: as 1f1b, through several chunks a "
          "stage: shorter idle times, more transfers; no effect with one stage",
          {"pipeline_schedule", "pp_schedule"}));
  f.push_back(key("parallel.chunks", at(&R::parallel, &P::chunks), between(1, 1024), "chunks",
                  "pieces of the model that an interleaved stage has, 2 or more; 1 for the other schedules",
                  {"virtual_stages", "num_model_chunks", "virtual_pipeline_size", "vpp"}));
  f.push_back(
      key("parallel.cut", at(&R::parallel, &P::cut), list(between(0, 1023), /*empty_allowed=*/true, /*unique=*/false),
          "blocks",
          "the first block of every piece of the model, from 0 on: pipeline * chunks of them, piece i being chunk "
          "i / pipeline of stage i % pipeline; empty: cut by cost, so that the slowest stage is fastest",
          {"pipeline_cut", "split_points", "layers_per_stage"}));
  f.push_back(key("parallel.transfer", at(&R::parallel, &P::transfer), any(), "",
                  "how hidden states and their gradients go from stage to stage in training: values, in the "
                  "activations' type, which changes no bit; codes, at the widths of the layer that they go to, with a "
                  "scale for each token, where these have at most 8 bits: fewer bytes, another loss; no effect with "
                  "one stage",
                  {"pipeline_compression", "activation_compression"}));
  f.push_back(key("parallel.timeline_step", at(&R::parallel, &P::timeline_step), between(0, kMostOfAny), "step",
                  "the step, as metrics.jsonl counts, whose timeline is written to run.dir/timeline.json (for trace "
                  "viewers) and timeline.csv: when each stage did what; 0: none; no effect with one stage",
                  {"trace_step", "profile_step"}));
  f.push_back(key("parallel.threads_per_rank", at(&R::parallel, &P::threads_per_rank), between(0, kMostOfAny),
                  "threads", "CPU threads of a rank; 0: the node's cores / its ranks, at least 1",
                  {"num_threads", "omp_num_threads", "threads"}));
}

}  // namespace qat
