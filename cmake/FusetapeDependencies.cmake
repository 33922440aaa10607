# Finds the compiled libraries that fusetape links. Read by our own build and by the installed package,
# because a static fusetape leaves them for its user to link.

# oneDNN as DNNL::dnnl: an own one where -Ddnnl_DIR says so, else the one in `root` (from `make deps`, or carried
# along by our install). Its target is made here: the wheel's CMake files are refused by CMake 4.
function(fusetape_import_onednn root library)
  add_library(DNNL::dnnl SHARED IMPORTED GLOBAL)
  set_target_properties(DNNL::dnnl PROPERTIES
    IMPORTED_LOCATION "${root}/${library}"
    IMPORTED_SONAME libdnnl.so.3)
  if(EXISTS "${root}/include")
    set_target_properties(DNNL::dnnl PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${root}/include")
  endif()
endfunction()

macro(fusetape_find_system_onednn)
  find_package(dnnl 3.2 CONFIG REQUIRED)
  if(NOT DNNL_CPU_RUNTIME STREQUAL "OMP")
    message(FATAL_ERROR "The oneDNN in ${dnnl_DIR} runs on '${DNNL_CPU_RUNTIME}'. fusetape needs one built for "
      "OpenMP, because both must share one thread pool. Leave dnnl_DIR out to use the one from `make deps`.")
  endif()
endmacro()

macro(fusetape_find_onednn)
  set(FUSETAPE_ONEDNN_ROOT "${PROJECT_SOURCE_DIR}/.deps/onednn")
  set(FUSETAPE_CARRIES_ONEDNN OFF)
  if(TARGET DNNL::dnnl)
    # a project that contains us has its own
  elseif(dnnl_DIR)
    fusetape_find_system_onednn()
  elseif(EXISTS "${FUSETAPE_ONEDNN_ROOT}/lib/libdnnl.so.3.2")
    fusetape_import_onednn("${FUSETAPE_ONEDNN_ROOT}" lib/libdnnl.so.3.2)
    set(FUSETAPE_CARRIES_ONEDNN ON)
  else()
    message(FATAL_ERROR "oneDNN is not there yet. Run\n  make deps\nin ${PROJECT_SOURCE_DIR}; it unpacks oneDNN "
      "into .deps/onednn. (Or point -Ddnnl_DIR at an installed oneDNN >= 3.2 with the OpenMP runtime.)")
  endif()
endmacro()

# OpenBLAS as fusetape::openblas, the OpenMP build. Debian keeps it in a folder of its own beside the pthread one.
function(fusetape_find_openblas)
  if(TARGET fusetape::openblas)
    return()
  endif()
  find_library(FUSETAPE_OPENBLAS_LIBRARY openblas PATH_SUFFIXES openblas-openmp)
  find_path(FUSETAPE_OPENBLAS_INCLUDE_DIR cblas.h PATH_SUFFIXES openblas-openmp openblas)
  if(NOT FUSETAPE_OPENBLAS_LIBRARY OR NOT FUSETAPE_OPENBLAS_INCLUDE_DIR)
    message(FATAL_ERROR "fusetape needs OpenBLAS, the OpenMP build: run `make deps`, or install "
      "libopenblas-openmp-dev (Debian, Ubuntu).")
  endif()
  add_library(fusetape::openblas UNKNOWN IMPORTED GLOBAL)
  set_target_properties(fusetape::openblas PROPERTIES
    IMPORTED_LOCATION "${FUSETAPE_OPENBLAS_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${FUSETAPE_OPENBLAS_INCLUDE_DIR}")
endfunction()

# A BLAS with its own threads would fight with OpenMP's over the same cores.
function(fusetape_require_openmp_openblas)
  include(CheckCXXSourceRuns)
  set(CMAKE_REQUIRED_LIBRARIES fusetape::openblas)
  set(CMAKE_REQUIRED_QUIET ON)
  check_cxx_source_runs(
    "extern \"C\" int openblas_get_parallel(void); int main() { return openblas_get_parallel() == 2 ? 0 : 1; }"
    FUSETAPE_OPENBLAS_IS_OPENMP)
  if(NOT FUSETAPE_OPENBLAS_IS_OPENMP AND NOT CMAKE_CROSSCOMPILING)
    unset(FUSETAPE_OPENBLAS_IS_OPENMP CACHE)
    message(FATAL_ERROR "${FUSETAPE_OPENBLAS_LIBRARY} is not the OpenMP build of OpenBLAS. Run `make deps`, or set "
      "-DFUSETAPE_OPENBLAS_LIBRARY to one that is.")
  endif()
endfunction()

# Highway as fusetape::highway. It takes AVX2 for its floor only where AES is one too, which x86-64-v3 does not
# promise; unless told that nobody wants AES, it would compile every kernel for SSSE3 and SSE4 besides.
function(fusetape_find_highway)
  if(TARGET fusetape::highway)
    return()
  endif()
  find_library(FUSETAPE_HIGHWAY_LIBRARY hwy)
  find_path(FUSETAPE_HIGHWAY_INCLUDE_DIR hwy/highway.h)
  if(NOT FUSETAPE_HIGHWAY_LIBRARY OR NOT FUSETAPE_HIGHWAY_INCLUDE_DIR)
    message(FATAL_ERROR "fusetape needs Highway: run `make deps`, or install libhwy-dev (Debian, Ubuntu).")
  endif()
  add_library(fusetape::highway UNKNOWN IMPORTED GLOBAL)
  set_target_properties(fusetape::highway PROPERTIES
    IMPORTED_LOCATION "${FUSETAPE_HIGHWAY_LIBRARY}"
    INTERFACE_COMPILE_DEFINITIONS HWY_DISABLE_PCLMUL_AES
    INTERFACE_INCLUDE_DIRECTORIES "${FUSETAPE_HIGHWAY_INCLUDE_DIR}")
endfunction()

# The CUDA runtime, cuBLASLt, NVRTC, and cuDNN as fusetape::cudnn: beside the toolkit's libraries, or in the
# .deps/cudnn that `make deps-cuda` unpacks. FUSETAPE_CUDNN_ROOT names another place.
macro(fusetape_find_cuda_libraries)
  find_package(CUDAToolkit 12.8 REQUIRED)
  fusetape_find_cudnn()
  set(FUSETAPE_CUDA_LIBRARIES CUDA::cudart_static CUDA::cublasLt CUDA::nvrtc fusetape::cudnn)
endmacro()

function(fusetape_find_cudnn)
  if(TARGET fusetape::cudnn)
    return()
  endif()
  set(places "${FUSETAPE_CUDNN_ROOT}" "${PROJECT_SOURCE_DIR}/.deps/cudnn" "${CUDAToolkit_LIBRARY_ROOT}"
    "${CUDAToolkit_TARGET_DIR}" "${CUDAToolkit_BIN_DIR}/..")
  find_library(FUSETAPE_CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${places} PATH_SUFFIXES lib lib64)
  find_path(FUSETAPE_CUDNN_INCLUDE_DIR cudnn_version.h HINTS ${places} PATH_SUFFIXES include)
  set(version 0)
  if(FUSETAPE_CUDNN_INCLUDE_DIR)
    file(STRINGS "${FUSETAPE_CUDNN_INCLUDE_DIR}/cudnn_version.h" version REGEX "define CUDNN_MAJOR ")
    string(REGEX REPLACE "[^0-9]" "" version "${version}")
  endif()
  if(NOT FUSETAPE_CUDNN_LIBRARY OR version LESS 9)
    message(FATAL_ERROR "fusetape's CUDA build needs cuDNN 9 or later. Run\n  make deps-cuda\nwhich unpacks it into "
      ".deps/cudnn, or point -DFUSETAPE_CUDNN_ROOT at one.")
  endif()
  add_library(fusetape::cudnn UNKNOWN IMPORTED GLOBAL)
  set_target_properties(fusetape::cudnn PROPERTIES
    IMPORTED_LOCATION "${FUSETAPE_CUDNN_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${FUSETAPE_CUDNN_INCLUDE_DIR}")
endfunction()

# Headers only, and only for our own build.
function(fusetape_find_cudnn_frontend)
  find_path(FUSETAPE_CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h
    HINTS "${PROJECT_SOURCE_DIR}/.deps/cudnn-frontend/include")
  if(NOT FUSETAPE_CUDNN_FRONTEND_INCLUDE_DIR)
    message(FATAL_ERROR "fusetape's CUDA build needs cudnn-frontend. Run\n  make deps-cuda\nwhich unpacks it into "
      ".deps/cudnn-frontend.")
  endif()
  add_library(fusetape::cudnn_frontend INTERFACE IMPORTED GLOBAL)
  set_target_properties(fusetape::cudnn_frontend PROPERTIES
    INTERFACE_COMPILE_DEFINITIONS "CUDNN_FRONTEND_SKIP_JSON_LIB"
    INTERFACE_INCLUDE_DIRECTORIES "${FUSETAPE_CUDNN_FRONTEND_INCLUDE_DIR}")
endfunction()
