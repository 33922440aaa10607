# Finds the compiled libraries that fusetape links. Read by our own build and by the installed package,
# because a static fusetape leaves them for its user to link. There FUSETAPE_LINK_ONLY is set: a user compiles
# nothing of ours, so neither headers nor the names that come with them ("libhwy.so") need to be there.

# oneDNN as DNNL::dnnl: an own one where -Ddnnl_DIR says so, else the one in `root` (from `make deps`, or carried
# along by our install). Its target is made here: the wheel's CMake files are refused by CMake 4.
function(fusetape_import_onednn root library)
  add_library(DNNL::dnnl SHARED IMPORTED GLOBAL)
  set_target_properties(DNNL::dnnl PROPERTIES
    IMPORTED_LOCATION "${root}/${library}"
    IMPORTED_SONAME libdnnl.so.3)
  if(NOT FUSETAPE_LINK_ONLY)
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

# What an installed fusetape was built with, where that was not carried along: in `folder`, or anywhere.
macro(fusetape_find_onednn_again folder)
  find_library(FUSETAPE_ONEDNN_LIBRARY libdnnl.so.3 HINTS "${folder}")
  if(FUSETAPE_ONEDNN_LIBRARY)
    get_filename_component(folder_found "${FUSETAPE_ONEDNN_LIBRARY}" DIRECTORY)
    fusetape_import_onednn("${folder_found}" libdnnl.so.3)
  else()
    fusetape_find_system_onednn()
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

# A library as fusetape::<name>, by the names that follow: the one that developers link, and the file that runs.
function(fusetape_import name title package dev_package header suffixes)
  string(TOUPPER ${name} upper)
  set(wanted FUSETAPE_${upper}_LIBRARY)
  find_library(FUSETAPE_${upper}_LIBRARY NAMES ${ARGN} PATH_SUFFIXES ${suffixes})
  if(NOT FUSETAPE_LINK_ONLY)
    set(package ${dev_package})
    list(APPEND wanted FUSETAPE_${upper}_INCLUDE_DIR)
    find_path(FUSETAPE_${upper}_INCLUDE_DIR ${header} PATH_SUFFIXES ${suffixes})
  endif()
  foreach(variable IN LISTS wanted)
    if(NOT ${variable})
      message(FATAL_ERROR "fusetape needs ${title}: run `make deps`, or install ${package} (Debian, Ubuntu).")
    endif()
  endforeach()
  add_library(fusetape::${name} UNKNOWN IMPORTED GLOBAL)
  set_target_properties(fusetape::${name} PROPERTIES IMPORTED_LOCATION "${FUSETAPE_${upper}_LIBRARY}")
  if(NOT FUSETAPE_LINK_ONLY)
    set_target_properties(fusetape::${name} PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${FUSETAPE_${upper}_INCLUDE_DIR}")
  endif()
endfunction()

# OpenBLAS as fusetape::openblas, the OpenMP build. Debian keeps it in a folder of its own beside the pthread one.
function(fusetape_find_openblas)
  if(TARGET fusetape::openblas)
    return()
  endif()
  fusetape_import(openblas "OpenBLAS, the OpenMP build" libopenblas0-openmp libopenblas-openmp-dev
    cblas.h "openblas-openmp;openblas" openblas libopenblas.so.0)
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
  fusetape_import(highway Highway libhwy1 libhwy-dev hwy/highway.h "" hwy libhwy.so.1)
  set_target_properties(fusetape::highway PROPERTIES INTERFACE_COMPILE_DEFINITIONS HWY_DISABLE_PCLMUL_AES)
endfunction()

# The OpenMP runtime that our objects call, as fusetape::openmp, for an installed package: `name` is gomp or omp.
# Whoever links them may have another compiler than we had, or no omp.h.
function(fusetape_find_openmp_runtime name folder)
  if(TARGET fusetape::openmp)
    return()
  endif()
  find_library(FUSETAPE_OPENMP_LIBRARY NAMES ${name} lib${name}.so.1 lib${name}.so.5 HINTS "${folder}")
  if(NOT FUSETAPE_OPENMP_LIBRARY)
    message(FATAL_ERROR "fusetape was built with OpenMP's lib${name}, which is not there: install it, or set "
      "-DFUSETAPE_OPENMP_LIBRARY to where it is.")
  endif()
  add_library(fusetape::openmp UNKNOWN IMPORTED GLOBAL)
  set_target_properties(fusetape::openmp PROPERTIES IMPORTED_LOCATION "${FUSETAPE_OPENMP_LIBRARY}")
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
  set(version 9)
  if(NOT FUSETAPE_LINK_ONLY)
    set(version 0)
    find_path(FUSETAPE_CUDNN_INCLUDE_DIR cudnn_version.h HINTS ${places} PATH_SUFFIXES include)
  endif()
  if(FUSETAPE_CUDNN_INCLUDE_DIR)
    file(STRINGS "${FUSETAPE_CUDNN_INCLUDE_DIR}/cudnn_version.h" version REGEX "define CUDNN_MAJOR ")
    string(REGEX REPLACE "[^0-9]" "" version "${version}")
  endif()
  if(NOT FUSETAPE_CUDNN_LIBRARY OR version LESS 9)
    message(FATAL_ERROR "fusetape's CUDA build needs cuDNN 9 or later. Run\n  make deps-cuda\nwhich unpacks it into "
      ".deps/cudnn, or point -DFUSETAPE_CUDNN_ROOT at one.")
  endif()
  add_library(fusetape::cudnn UNKNOWN IMPORTED GLOBAL)
  set_target_properties(fusetape::cudnn PROPERTIES IMPORTED_LOCATION "${FUSETAPE_CUDNN_LIBRARY}")
  if(NOT FUSETAPE_LINK_ONLY)
    set_target_properties(fusetape::cudnn PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${FUSETAPE_CUDNN_INCLUDE_DIR}")
  endif()
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
