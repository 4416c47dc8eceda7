// What the training loop is told: the sections of the configuration that concern it.
#pragma once

#include <cstdint>
#include <string>

#include "src/checkpoint/checkpoint_config.h"
#include "src/data/data_config.h"
#include "src/eval/eval_config.h"
#include "src/model/gpt2_config.h"
#include "src/optim/optim_config.h"
#include "src/quant/quant_config.h"
#include "src/report/report_config.h"
#include "src/schedule/range_test_config.h"
#include "src/schedule/schedule_config.h"
#include "src/train/comm_config.h"
#include "src/train/distill_config.h"
#include "src/train/train_config.h"
#include "src/train/watchdog_config.h"

namespace qat {

struct TrainerOptions {
  RunSection run;
  TrainConfig train;
  DistillConfig distill;
  QuantConfig quant;
  PrecisionScheduleConfig precision;
  RangeTestConfig range_test;
  LrScheduleConfig lr;
  DataConfig data;
  OptimConfig optim;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  CommConfig comm;
  WatchdogConfig watchdog;
  ReportConfig report;
  std::string config_json;        // the effective configuration, kept in checkpoints
  std::uint64_t config_hash = 0;  // of it; equal on all ranks
  Gpt2Config model;               // what recipes ask about, blocks and dropout; the trainer takes its model's
  int threads = 1;                // CPU threads of this rank
  dist::PipelineSchedule schedule = dist::PipelineSchedule::kOneFOneB;  // of the grid's stages
  StageTransfer transfer = StageTransfer::kValues;                      // between them
  std::int64_t timeline_step = 0;                                       // step whose timeline is written; 0: none
  bool strict = false;  // resume from no older checkpoint than the one meant
};

}  // namespace qat
