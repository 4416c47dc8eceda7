# find_package only; CMake downloads nothing. launch/setup.sh installs what is named here.

function(qat_missing what package)
  message(FATAL_ERROR "${what} was not found: install it with `apt-get install ${package}`, or run launch/setup.sh")
endfunction()
# qat_require(<CMake package> <Debian package> [find_package arguments])
macro(qat_require name package)
  find_package(${name} QUIET ${ARGN})
  if(NOT ${name}_FOUND)
    qat_missing(${name} "${package}")
  endif()
endmacro()

find_package(Threads REQUIRED)

# The C bindings alone: Open MPI's C++ ones are gone in version 5.
qat_require(MPI "libopenmpi-dev openmpi-bin" COMPONENTS C)
add_library(qat_mpi INTERFACE)
target_link_libraries(qat_mpi INTERFACE MPI::MPI_C)
target_compile_definitions(qat_mpi INTERFACE OMPI_SKIP_MPICXX)

qat_require(HDF5 libhdf5-dev COMPONENTS C)
add_library(qat_hdf5 INTERFACE)
target_include_directories(qat_hdf5 SYSTEM INTERFACE ${HDF5_C_INCLUDE_DIRS})
target_compile_definitions(qat_hdf5 INTERFACE ${HDF5_C_DEFINITIONS})
target_link_libraries(qat_hdf5 INTERFACE ${HDF5_C_LIBRARIES})

qat_require(fmt libfmt-dev)
qat_require(spdlog libspdlog-dev)
qat_require(nlohmann_json nlohmann-json3-dev)
qat_require(CLI11 libcli11-dev)
qat_require(Pcre2 libpcre2-dev)
qat_require(XxHash libxxhash-dev)
find_package(LibTorch QUIET)
if(NOT LibTorch_FOUND)
  message(FATAL_ERROR "${LibTorch_NOT_FOUND_MESSAGE}")
endif()
