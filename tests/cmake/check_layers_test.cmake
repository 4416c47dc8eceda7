# Does cmake/CheckLayers.cmake find what it is there to find? Small trees, each with one fault, and one without.
#   cmake -DCHECK=<CheckLayers.cmake> -DWORK=<scratch folder> -P check_layers_test.cmake

# One file with the given include lines, beside what every tree holds; the check must name `fault`, or pass if it is "".
function(expect fault file)
  file(REMOVE_RECURSE ${WORK})
  file(WRITE ${WORK}/kernels/common/view.h "#pragma once\n#include <cstdint>\n")
  set(text "// a comment; with a semicolon [and a bracket\n#pragma once\n")
  foreach(line IN LISTS ARGN)
    string(APPEND text "${line}\n")
  endforeach()
  file(WRITE ${WORK}/${file} "${text}int x;\n")
  execute_process(COMMAND ${CMAKE_COMMAND} -DROOT=${WORK} -P ${CHECK} RESULT_VARIABLE code OUTPUT_VARIABLE out
                  ERROR_VARIABLE err)
  string(REGEX REPLACE "[ \n]+" " " err "${err}")
  if(fault STREQUAL "")
    if(NOT code EQUAL 0)
      message(SEND_ERROR "${file} with ${ARGN} is legal, but the check says: ${err}")
    endif()
  else()
    string(FIND "${err}" "${fault}" at)
    if(code EQUAL 0 OR at EQUAL -1)
      message(SEND_ERROR "${file} with ${ARGN}: expected a failure that says '${fault}', got ${code}: ${err}")
    endif()
  endif()
endfunction()

# Legal: down, one's own folder, an allowed neighbour, a third party behind its fence.
expect("" dist/comm/a.h "#include \"kernels/common/view.h\"" "#include \"dist/comm/b.h\"" "#include <vector>")
expect("" src/data/a.cc "#include \"src/text/b.h\"")
expect("" src/model/a.cc "#include \"src/loss/b.h\"" "#include <torch/torch.h>")
expect("" src/config/run_config.h "#include \"src/model/gpt2_config.h\"" "#include \"src/base/json.h\"")
expect("" dist/comm/mpi_comm.cc "#include <mpi.h>")
expect("" dist/comm/nccl_comm.cc "#include <nccl.h>" "#include <cuda_runtime.h>")
expect("" src/checkpoint/h5_file.cc "#include <hdf5.h>")
expect("" src/base/json.cc "#include <nlohmann/json.hpp>")
expect("" kernels/quant/a.cu "#include <cuda_runtime.h>")
expect("" launch/commands/a.cc "#include \"src/config/loader.h\"" "#include <CLI/CLI.hpp>")

# Up.
expect("kernels/common/a.h includes kernels/quant/b.h: a lower layer may not see a higher one" kernels/common/a.h
       "#include \"kernels/quant/b.h\"")
expect("kernels/quant/a.cu includes dist/comm/b.h" kernels/quant/a.cu "#include \"dist/comm/b.h\"")
expect("kernels/quant/a.cuh includes dist/comm/b.h" kernels/quant/a.cuh "#include \"dist/comm/b.h\"")
expect("dist/grad/a.cc includes src/base/b.h" dist/grad/a.cc "#include \"src/base/b.h\"")
expect("src/loss/a.cc includes src/model/b.h" src/loss/a.cc "#include \"src/model/b.h\"")
expect("src/eval/a.h includes src/train/b.h" src/eval/a.h "  #  include <src/train/b.h>")
expect("src/train/a.cc includes src/config/b.h" src/train/a.cc "#include <string>" "#include \"src/config/b.h\"")
expect("src/model/deep/er/a.cc includes launch/b.h" src/model/deep/er/a.cc "#include \"launch/b.h\"")
# Sideways.
expect("kernels/quant/a.cc includes kernels/optim/b.h: neighbours" kernels/quant/a.cc "#include \"kernels/optim/b.h\"")
expect("src/text/a.cc includes src/data/b.h: neighbours" src/text/a.cc "#include \"src/data/b.h\"")
# Folders that see less than their level.
expect("src/base/a.cc includes dist/comm/b.h: src/base may see only" src/base/a.cc "#include \"dist/comm/b.h\"")
expect("src/config/a.cc includes src/model/gpt2.h: src/config may see only" src/config/a.cc
       "#include \"src/model/gpt2.h\"")
# Over a fence.
expect("src/train/a.cc includes mpi.h" src/train/a.cc "#include <mpi.h>")
expect("dist/comm/local_comm.cc includes mpi.h" dist/comm/local_comm.cc "#include <mpi.h>")
expect("dist/comm/mpi_comm.cc includes nccl.h" dist/comm/mpi_comm.cc "#include <nccl.h>")
expect("kernels/quant/a.cc includes torch/torch.h" kernels/quant/a.cc "#include <torch/torch.h>")
expect("src/data/a.cc includes ATen/ATen.h" src/data/a.cc "#include <ATen/ATen.h>")
expect("src/text/a.cc includes c10/util/Half.h" src/text/a.cc "#include \"c10/util/Half.h\"")
expect("src/checkpoint/writer.cc includes hdf5.h" src/checkpoint/writer.cc "#include <hdf5.h>")
expect("src/config/a.cc includes nlohmann/json.hpp" src/config/a.cc "#include <nlohmann/json.hpp>")
expect("src/model/a.cc includes cuda_runtime.h" src/model/a.cc "#include <cuda_runtime.h>")
expect("dist/grad/a.cc includes fmt/format.h" dist/grad/a.cc "#include <fmt/format.h>")
expect("src/train/a.cc includes CLI/CLI.hpp" src/train/a.cc "#include <CLI/CLI.hpp>")
# Not from the root, or in a folder that nobody has placed.
expect("src/text/a.cc includes b.h: a project header is named from the repository root" src/text/a.cc "#include \"b.h\"")
expect("src/text/a.cc includes src/text/../model/b.h" src/text/a.cc "#include \"src/text/../model/b.h\"")
expect("src/model/a.cc includes tests/support/b.h" src/model/a.cc "#include \"tests/support/b.h\"")
expect("src/novel/a.cc: its folder is in no layer" src/novel/a.cc "#include <vector>")

# A wrong ROOT is not a clean bill.
file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})
execute_process(COMMAND ${CMAKE_COMMAND} -DROOT=${WORK} -P ${CHECK} RESULT_VARIABLE code OUTPUT_QUIET ERROR_QUIET)
if(code EQUAL 0)
  message(SEND_ERROR "an empty tree passes")
endif()
