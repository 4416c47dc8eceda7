# Reads the include lines of the product and fails when a folder looks up, sideways, or over a third party's fence.
#   cmake -DROOT=<repository> -P cmake/CheckLayers.cmake
# The rules are the three tables; everything below them is reading.

# From the bottom up, one level a line. A folder sees itself and every level before its own; not its neighbours on the
# same level, unless `sideways` says so.
set(levels
    "kernels/common"
    "kernels/quant kernels/optim kernels/grad kernels/loss kernels/embedding kernels/sampling"
    "kernels/gemm kernels/norm kernels/activation kernels/attention"
    "dist/comm"
    "dist/grid dist/control dist/grad dist/shard dist/pipeline dist/watch"
    "src/base"
    "src/bitmap"
    "src/text src/data src/quant src/report"
    "src/loss"
    "src/model"
    "src/optim src/schedule src/checkpoint"
    "src/generate"
    "src/eval"
    "src/analysis"
    "src/train"
    "src/export"
    "src/config"
    "src/memory"
    "src/cost src/doctor"
    "launch")
set(sideways "src/data -> src/text")

# Folders that see less than their level allows: regular expressions over what they may include besides themselves.
set(narrow
    "src/base" "^kernels/common/"
    "src/config" "^(kernels/common|src/base|src/bitmap)/|^src/[a-z]+/[a-z0-9_]+_config[.]h$|^src/schedule/(schedule_rules|lr_schedule)[.]h$")

# Third parties: regular expressions over the header in <>, and over the files that may include it.
set(fences
    "^mpi[.]h$" "^dist/comm/mpi_"
    "^nccl[.]h$" "^dist/comm/nccl_"
    "^(cuda|cublas|cudnn|cufft|curand|nvtx|cooperative_groups|cutlass/|cute/|cub/|thrust/|mma[.]h)"
    "^(kernels/|dist/comm/nccl_)"
    "^(torch|ATen|c10)/" "^(src/(quant|loss|model|generate|eval|train)/|src/base/torch_|launch/)"
    "^(hdf5[.]h|hdf5_hl[.]h|H5[A-Za-z]+[.]h)$" "^src/checkpoint/h5_"
    "^nlohmann/" "^src/(base/json[a-z_]*|text/byte_pair_vocabulary|checkpoint/manifest)[.]cc$"
    "^(fmt|spdlog)/" "^(src|launch)/"
    "^CLI/" "^launch/")

# The longest listed folder that a path lies in, and its level; -1 for none.
function(layer_of path out_folder out_level)
  set(${out_folder} "" PARENT_SCOPE)
  set(${out_level} -1 PARENT_SCOPE)
  set(level 0)
  foreach(line IN LISTS levels)
    string(REPLACE " " ";" folders "${line}")
    foreach(folder IN LISTS folders)
      string(FIND "${path}" "${folder}/" at)
      if(at EQUAL 0)
        set(${out_folder} ${folder} PARENT_SCOPE)
        set(${out_level} ${level} PARENT_SCOPE)
        return()
      endif()
    endforeach()
    math(EXPR level "${level} + 1")
  endforeach()
endfunction()

# Why `file` of folder `own` may not include the project's `header`; empty if it may.
function(why_not_ours own own_level header out)
  layer_of("${header}" theirs their_level)
  set(reason "")
  if(header MATCHES "[.][.]/" OR their_level EQUAL -1)
    set(reason "a project header is named from the repository root, in a folder that cmake/CheckLayers.cmake lists")
  elseif(NOT own STREQUAL theirs)
    list(FIND narrow ${own} at)
    if(NOT at EQUAL -1)
      math(EXPR at "${at} + 1")
      list(GET narrow ${at} allowed)
      if(NOT header MATCHES "${allowed}")
        set(reason "${own} may see only ${allowed}")
      endif()
    elseif(their_level GREATER own_level)
      set(reason "a lower layer may not see a higher one")
    elseif(their_level EQUAL own_level AND NOT "${own} -> ${theirs}" IN_LIST sideways)
      set(reason "neighbours may not see each other")
    endif()
  endif()
  set(${out} "${reason}" PARENT_SCOPE)
endfunction()

# Why `file` may not include the system or third-party `header`; empty if it may.
function(why_not_theirs file header out)
  set(${out} "" PARENT_SCOPE)
  list(LENGTH fences count)
  math(EXPR last "${count} - 2")
  foreach(i RANGE 0 ${last} 2)
    math(EXPR j "${i} + 1")
    list(GET fences ${i} headers)
    list(GET fences ${j} files)
    if(header MATCHES "${headers}" AND NOT file MATCHES "${files}")
      set(${out} "only files like ${files} may" PARENT_SCOPE)
    endif()
  endforeach()
endfunction()

set(patterns)
foreach(top IN ITEMS kernels dist src launch)
  foreach(ending IN ITEMS h cc cu cuh)
    list(APPEND patterns ${ROOT}/${top}/*.${ending})
  endforeach()
endforeach()
file(GLOB_RECURSE files RELATIVE ${ROOT} ${patterns})
list(LENGTH files count)
if(count EQUAL 0)
  message(FATAL_ERROR "layers: no source files below ${ROOT}: give the repository with -DROOT=")
endif()

set(faults "")
foreach(file IN LISTS files)
  layer_of("${file}" own own_level)
  if(own_level EQUAL -1)
    string(APPEND faults "\n  ${file}: its folder is in no layer: add it to cmake/CheckLayers.cmake")
    continue()
  endif()
  file(READ ${ROOT}/${file} text)
  string(REGEX MATCHALL "(^|\n)[ \t]*#[ \t]*include[ \t]*[\"<][^\">\n]+" includes "${text}")
  foreach(include IN LISTS includes)
    string(REGEX REPLACE ".*[\"<]" "" header "${include}")
    set(reason "")
    # <src/x.h> is as much ours as "src/x.h".
    layer_of("${header}" theirs their_level)
    if(include MATCHES "\"" AND NOT header MATCHES "^(nlohmann|torch|ATen|c10)/" OR NOT their_level EQUAL -1)
      why_not_ours(${own} ${own_level} "${header}" reason)
    endif()
    if(reason STREQUAL "")
      why_not_theirs("${file}" "${header}" reason)
    endif()
    if(NOT reason STREQUAL "")
      string(APPEND faults "\n  ${file} includes ${header}: ${reason}")
    endif()
  endforeach()
endforeach()
if(NOT faults STREQUAL "")
  message(FATAL_ERROR "layers:${faults}")
endif()
message(STATUS "layers: ${count} files look down only")
