set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
# Results must not depend on how the compiler contracts or reassociates floating point: the same bits everywhere.
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release or RelWithDebInfo" FORCE)
endif()
# Internal checks (QAT_CHECK) do not depend on NDEBUG.
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")

# These choose which files are compiled (*.cu, nccl_*.cc), never what a class looks like. The default is what is there.
find_program(QAT_NVCC nvcc HINTS /usr/local/cuda/bin)
mark_as_advanced(QAT_NVCC)
set(have_cuda OFF)
if(QAT_NVCC)
  set(have_cuda ON)
endif()
option(QAT_WITH_CUDA "Compile the *.cu files (needs nvcc)" ${have_cuda})
find_path(QAT_NCCL_INCLUDE_DIR nccl.h HINTS /usr/local/cuda/include)
mark_as_advanced(QAT_NCCL_INCLUDE_DIR)
set(have_nccl OFF)
if(QAT_WITH_CUDA AND QAT_NCCL_INCLUDE_DIR)
  set(have_nccl ON)
endif()
option(QAT_WITH_NCCL "Compile dist/comm/nccl_*.cc (needs nccl.h and QAT_WITH_CUDA)" ${have_nccl})
if(QAT_WITH_CUDA AND NOT QAT_NVCC)
  message(FATAL_ERROR "QAT_WITH_CUDA is ON, but nvcc was not found: install the CUDA toolkit, or set CUDA's bin folder in PATH")
endif()
if(QAT_WITH_NCCL AND NOT QAT_WITH_CUDA)
  message(FATAL_ERROR "QAT_WITH_NCCL is ON and QAT_WITH_CUDA is OFF: NCCL moves GPU memory, so it needs both or neither")
endif()
if(QAT_WITH_CUDA)
  set(CMAKE_CUDA_COMPILER ${QAT_NVCC})
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)  # LibTorch's: two copies in one process would not see each other's state
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 90a)
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  # As on the CPU: no contraction, so that a kernel and its CPU twin round alike.
  add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;--expt-relaxed-constexpr;--extended-lambda>")
  set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")
endif()

set(QAT_SANITIZE "" CACHE STRING "Sanitizers for our own code, e.g. address,undefined")
if(QAT_SANITIZE)
  # Not for targets that say QAT_NOT_INSTRUMENTED (qat_use_test_options): those compile as in the release build, and ccache
  # then has them already.
  set(instrumented "-O1;-g1;-UNDEBUG;-fsanitize=${QAT_SANITIZE};-fno-omit-frame-pointer;-fno-sanitize-recover=all")
  add_compile_options("$<$<NOT:$<BOOL:$<TARGET_PROPERTY:QAT_NOT_INSTRUMENTED>>>:${instrumented}>")
  add_link_options(-fsanitize=${QAT_SANITIZE})
endif()

find_program(QAT_CCACHE ccache)
mark_as_advanced(QAT_CCACHE)
if(QAT_CCACHE)
  # Precompiled headers carry time stamps that ccache must be told to look past; what it then hashes instead is their
  # content, which gcc only names in the preprocessed text when asked to. Paths are hashed from here: build folders share.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${QAT_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
  endif()
endif()

add_library(qat_warnings INTERFACE)
target_compile_options(qat_warnings INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>
                       $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers -Wno-restrict>)
