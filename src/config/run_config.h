// The whole configuration: the sum of the components' structs. Seen by launch/ only; no component sees more than its
// own.
#pragma once

#include "src/checkpoint/checkpoint_config.h"
#include "src/data/data_config.h"
#include "src/eval/eval_config.h"
#include "src/model/gpt2_config.h"
#include "src/optim/optim_config.h"
#include "src/quant/compute_config.h"
#include "src/quant/quant_config.h"
#include "src/report/report_config.h"
#include "src/schedule/range_test_config.h"
#include "src/schedule/schedule_config.h"
#include "src/train/comm_config.h"
#include "src/train/distill_config.h"
#include "src/train/train_config.h"
#include "src/train/watchdog_config.h"

namespace qat {

struct RunConfig {
  RunSection run;
  Gpt2Config model;
  LoraConfig lora;
  QuantConfig quant;
  PrecisionScheduleConfig precision;
  RangeTestConfig range_test;
  LrScheduleConfig lr;
  DataConfig data;
  OptimConfig optim;
  TrainConfig train;
  DistillConfig distill;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  ParallelConfig parallel;
  CommConfig comm;
  ComputeConfig compute;
  WatchdogConfig watchdog;
  ReportConfig report;
};

}  // namespace qat
