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

set(QAT_SANITIZE "" CACHE STRING "Sanitizers for our own code, e.g. address,undefined")
if(QAT_SANITIZE)
  add_compile_options(-fsanitize=${QAT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${QAT_SANITIZE})
endif()

find_program(QAT_CCACHE ccache)
if(QAT_CCACHE)
  # Precompiled headers carry time stamps that ccache must be told to look past.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${QAT_CCACHE})
endif()

add_library(qat_warnings INTERFACE)
target_compile_options(qat_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow>)
