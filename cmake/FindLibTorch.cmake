# LibTorch as an unpacked PyPI wheel (or any installation with include/ and lib/): target qat_torch.
# LibTorch's own CMake package insists on nvcc when the wheel was built for CUDA, even for CPU work, so the libraries are
# found here. Looked for: QAT_LIBTORCH (CMake variable or environment: the folder that holds include/ and lib/),
# CMAKE_PREFIX_PATH, the cache folder that launch/setup.sh fills.
set(QAT_TORCH_VERSION 2.11.0)
set(QAT_LIBTORCH "$ENV{QAT_LIBTORCH}" CACHE PATH "LibTorch: the folder that holds include/ and lib/")
if(DEFINED ENV{QAT_CACHE})
  set(qat_cache "$ENV{QAT_CACHE}")
elseif(DEFINED ENV{XDG_CACHE_HOME})
  set(qat_cache "$ENV{XDG_CACHE_HOME}/qat_dist")
else()
  set(qat_cache "$ENV{HOME}/.cache/qat_dist")
endif()
set(torch_hints ${QAT_LIBTORCH} ${qat_cache}/libtorch-${QAT_TORCH_VERSION}/torch)
if(QAT_LIBTORCH)
  set(torch_exclusive NO_DEFAULT_PATH)
endif()
find_path(LIBTORCH_INCLUDE_DIR torch/csrc/autograd/custom_function.h HINTS ${torch_hints} PATH_SUFFIXES include ${torch_exclusive})
find_library(LIBTORCH_C10 c10 HINTS ${torch_hints} PATH_SUFFIXES lib ${torch_exclusive})
find_library(LIBTORCH_CPU torch_cpu HINTS ${torch_hints} PATH_SUFFIXES lib ${torch_exclusive})
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch DEFAULT_MSG LIBTORCH_CPU LIBTORCH_C10 LIBTORCH_INCLUDE_DIR)

if(LibTorch_FOUND AND NOT TARGET qat_torch)
  file(READ ${LIBTORCH_INCLUDE_DIR}/torch/headeronly/version.h version_text)
  string(REGEX REPLACE ".*VERSION_MAJOR ([0-9]+).*VERSION_MINOR ([0-9]+).*VERSION_PATCH ([0-9]+).*" "\\1.\\2.\\3"
         LIBTORCH_VERSION "${version_text}")
  if(NOT LIBTORCH_VERSION VERSION_EQUAL QAT_TORCH_VERSION)
    message(FATAL_ERROR "LibTorch ${LIBTORCH_VERSION} at ${LIBTORCH_INCLUDE_DIR}, expected ${QAT_TORCH_VERSION}: "
                        "run launch/setup.sh, or point QAT_LIBTORCH at that version")
  endif()
  get_filename_component(torch_lib ${LIBTORCH_CPU} DIRECTORY)
  # The wheel's libtorch_cpu needs the CUDA run-time library even where there is no GPU; it comes in a wheel of its own.
  get_filename_component(torch_site ${torch_lib}/../.. ABSOLUTE)
  add_library(qat_torch INTERFACE)
  target_include_directories(qat_torch SYSTEM INTERFACE ${LIBTORCH_INCLUDE_DIR}
                             ${LIBTORCH_INCLUDE_DIR}/torch/csrc/api/include)
  target_link_libraries(qat_torch INTERFACE ${LIBTORCH_CPU} ${LIBTORCH_C10})
  file(GLOB wheel_libs ${torch_site}/nvidia/*/lib)
  foreach(dir IN LISTS torch_lib wheel_libs)
    target_link_options(qat_torch INTERFACE -Wl,-rpath,${dir} -Wl,-rpath-link,${dir})
  endforeach()
endif()
