// benchmarks/scaling/run.sh: on CPU ranks, and on a machine that has one of the GPUs that were asked for.
#include "src/base/json.h"
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Scaling : public Cli {
 protected:
  std::string run(const std::string& arguments) const {
    return quote(source_ + "/benchmarks/scaling/run.sh") + " --models nano --repeats 1 --out " + quote(out().string()) +
           " " + arguments;
  }
  fs::path out() const { return root_ / "scaling"; }
  std::vector<Value> lines() const {
    std::ifstream in(out() / "measurements.jsonl");
    std::vector<Value> all;
    for (std::string line; std::getline(in, line);) all.push_back(parse_json(line, "measurements.jsonl"));
    return all;
  }
};

TEST_F(Scaling, MeasuresPredictsAndDrawsOnCpuRanks) {
  const std::string command = run("--cpus 1,2,4 --only '^(strong, data|bits, data)'");
  const Outcome first = shell(command);
  ASSERT_EQ(first.exit_code, 0) << first.text;
  // One rank at three sizes, two and four ranks, and the runs whose bits are compared.
  ASSERT_EQ(lines().size(), 8U) << first.text;
  for (const Value& line : lines()) {
    EXPECT_EQ(line.at("device").as_string(), "CPU");
    EXPECT_GT(line.at("step_ms").as_double(), 0.0);
    EXPECT_NEAR(line.at("tokens_per_s").as_double() * line.at("step_ms").as_double() * 1e-3,
                static_cast<double>(line.at("batch").as_int() * line.at("sequence").as_int()), 1.0);
    EXPECT_EQ(line.at("gradient_bytes").as_int() > 0, line.at("data_parallel").as_int() > 1);
    EXPECT_FALSE(line.at("commit").as_string().empty() && fs::exists(fs::path(source_) / ".git"));
  }
  const std::string report = content(out() / "report.md");
  for (const char* row : {"| 1 | 1 x 1 | ", "| 2 | 2 x 1 | ", "| 4 | 4 x 1 | "})
    EXPECT_EQ(count(report, row), 2U) << row;
  EXPECT_EQ(count(report, "the same bits"), 3U) << report;
  EXPECT_EQ(count(report, "not measured"), 0U) << report;
  EXPECT_EQ(count(report, "| - |"), 0U) << report;  // every point has its prediction
  const std::string plot = content(out() / "strong.svg");
  EXPECT_EQ(count(plot, "class=\"predicted\" stroke"), 2U);  // tokens/s and efficiency
  EXPECT_EQ(count(plot, "<circle"), 6U);
  EXPECT_THAT(plot, HasSubstr("strong, data parallel, 4 sequences: nano"));
  EXPECT_EQ(plot.substr(plot.size() - 7), "</svg>\n");

  // The same command again only measures anew what a killed run has left half written.
  fs::resize_file(out() / "measurements.jsonl", fs::file_size(out() / "measurements.jsonl") - 20);
  const Outcome again = shell(command);
  EXPECT_EQ(again.exit_code, 0) << again.text;
  EXPECT_EQ(lines().size(), 8U);
  EXPECT_EQ(content(out() / "report.md"), report);  // the torn line was of the bits: as they were
}

TEST_F(Scaling, WhatTheMachineLacksIsPredictedAndMarkedAsNotMeasured) {
  // A machine with one H200, whose step takes as long as it does in benchmarks/README.md.
  const std::string program = write("one_h200", R"(#!/usr/bin/env bash
case $1 in
  plan) exec ")" + std::string(std::getenv("QAT_DIST")) +
                                                    R"(" "$@" ;;
  doctor)
    while [ "$1" != --save ]; do shift; done
    echo '{}' >"$2"
    echo '{"ranks": [{"host": "h", "cores": 16, "gpus_seen": 1, "gpu": "NVIDIA H200", "gpu_problem": "", "version": "0", "build": "1"}]}' ;;
  *)
    for word in "$@"; do case $word in run.dir=*) folder=${word#run.dir=} ;; esac; done
    mkdir -p "$folder"
    for step in $(seq 20); do echo '{"step_ms": 95.5, "loss": 1.0, "grad_norm": 1.0}'; done >"$folder/metrics.jsonl" ;;
esac
)");
  fs::permissions(program, fs::perms::owner_all);
  const Outcome all =
      shell("QAT_DIST=" + quote(program) + " " + quote(source_ + "/benchmarks/scaling/run.sh") +
            " --gpus 1,2,8 --models 124M --only 'data parallel, 64' --repeats 2 --out " + quote(out().string()));
  ASSERT_EQ(all.exit_code, 0) << all.text;
  EXPECT_THAT(all.text, AllOf(HasSubstr("2 GPUs: not measured: this machine has 1 GPU"), HasSubstr("8 GPUs: not")));
  for (const Value& line : lines()) EXPECT_EQ(line.at("ranks").as_int(), 1);
  const std::string report = content(out() / "report.md");
  EXPECT_THAT(report, HasSubstr("| 1 | 1 x 1 | 95.50 (95.50, 95.50) | 686,241 | 100.0 % | 95.50 | 100.0 % | 1.000 |"));
  EXPECT_EQ(count(report, "| not measured: this machine has 1 GPU |"), 4U) << report;  // two of each series
  const std::string plot = content(out() / "weak.svg");
  EXPECT_EQ(count(plot, "<circle"), 2U);
  EXPECT_EQ(count(plot, "class=\"predicted\" stroke"), 2U);
}

// GPUs of one machine differ: each does one rank's work by itself, at the same time, and two are measured beside both.
TEST_F(Scaling, EveryGpuIsMeasuredByItself) {
  const std::string program = write("two_gpus", R"(#!/usr/bin/env bash
[ "${OMPI_COMM_WORLD_RANK:-0}" = 0 ] || exit 0
case $1 in
  plan)
    words=()
    for word in "$@"; do  # links as plans know them, not the empty file of the doctor below
      case $last in --measured-step) echo "$word" >>"$PLANNED" ;; esac
      last=$word
      case $word in --rates) word=--gpu ;; */rates_2.json) word=H200 ;; esac
      words+=("$word")
    done
    exec ")" + std::string(std::getenv("QAT_DIST")) +
                                                    R"(" "${words[@]}" ;;
  doctor)
    while [ "$1" != --save ]; do shift; done
    echo '{}' >"$2"
    echo '{"ranks": [{"host": "h", "cores": 16, "gpus_seen": 2, "gpu": "NVIDIA H200", "gpu_problem": "", "version": "0", "build": "1"}]}' ;;
  *)
    for word in "$@"; do case $word in run.dir=*) folder=${word#run.dir=} ;; esac; done
    mkdir -p "$folder"
    case ${CUDA_VISIBLE_DEVICES-both} in 5) ms=100 ;; 7) ms=125 ;; *) ms=128 ;; esac
    if [ $ms != 128 ]; then  # until both are at work
      touch "$folder/../at_work_$ms"
      until [ -e "$folder/../at_work_100" ] && [ -e "$folder/../at_work_125" ]; do sleep 0.01; done
    fi
    for step in $(seq 20); do echo "{\"step_ms\": $ms, \"loss\": 1.0, \"grad_norm\": 1.0}"; done >"$folder/metrics.jsonl" ;;
esac
)");
  fs::permissions(program, fs::perms::owner_all);
  const Outcome all =
      shell("CUDA_VISIBLE_DEVICES=5,7 PLANNED=" + quote((root_ / "planned").string()) + " QAT_DIST=" + quote(program) +
            " " + quote(source_ + "/benchmarks/scaling/run.sh") +
            " --gpus 1,2 --models 124M --only '^weak, data parallel, 64' --repeats 1 --out " + quote(out().string()));
  ASSERT_EQ(all.exit_code, 0) << all.text;
  ASSERT_EQ(lines().size(), 2U);
  EXPECT_EQ(to_json(lines()[0].at("gpu_step_ms")), "[100,125]");
  EXPECT_EQ(lines()[1].at("ranks").as_int(), 2);
  const std::string report = content(out() / "report.md");
  // 64 sequences in 100 ms and 64 in 125 ms are 1,179,648 tokens/s.
  EXPECT_THAT(report, AllOf(HasSubstr("| 1 | 1 x 1 | 100.00 (100.00, 100.00) | 655,360 | 100.0 % |"),
                            HasSubstr("| 2 | 2 x 1 | 128.00 (128.00, 128.00) | 1,024,000 | 86.8 % |"),
                            HasSubstr("Each GPU by itself, all at the same time, ms: 100.00, 125.00.")));
  EXPECT_EQ(content(root_ / "planned"), "100\n125\n");  // one is as fast as it is; two wait for the slower one
}

TEST_F(Scaling, CommandsArePrintedAndBadInputIsRefusedBeforeAnythingRuns) {
  const Outcome dry = shell(run("--cpus 2 --only '^bits, data' --dry-run"));
  EXPECT_EQ(dry.exit_code, 0) << dry.text;
  EXPECT_THAT(dry.text, AllOf(HasSubstr("run_local.sh -n 2"), HasSubstr("train.batch_size=8")));
  EXPECT_FALSE(fs::exists(out()));
  const auto refused = [&](const std::string& arguments, const std::string& part) {
    const Outcome said = shell("CUDA_VISIBLE_DEVICES= " + run(arguments));
    EXPECT_EQ(said.exit_code, 2) << said.text;
    EXPECT_THAT(said.text, HasSubstr(part));
    EXPECT_FALSE(fs::exists(out() / "measurements.jsonl"));
  };
  refused("--cpus 1,3", "1,3: expected powers of two");
  refused("--cpus 1 --models 7B", "--models 7B: expected some of micro, nano");
  refused("--cpus 1 --only nothing", "--only nothing: no series has it; they are:");
  refused("--gpus 1 --models 124M", "the program sees no GPU here");
  refused("", "--gpus");
}

}  // namespace
}  // namespace qat::cli
