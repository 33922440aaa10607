# The CUDA backend: whether it is compiled at all, and its device (backends/cuda/device/) with compiler and libraries.
# Without a toolkit FUSETAPE_CUDA goes off again, and the build is for the CPU.
if(FUSETAPE_CUDA)
  find_program(FUSETAPE_NVCC nvcc HINTS ENV CUDACXX PATHS "${PROJECT_SOURCE_DIR}/.deps/cuda/bin")
  if(CMAKE_CUDA_COMPILER OR FUSETAPE_NVCC)
    if(NOT CMAKE_CUDA_COMPILER)
      set(CMAKE_CUDA_COMPILER "${FUSETAPE_NVCC}")
    endif()
    if(NOT CMAKE_CUDA_HOST_COMPILER)
      set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")
    endif()
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 90-virtual)
    endif()
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # older CMakes do not know that nvcc can
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    fusetape_find_cuda_libraries()
    fusetape_find_cudnn_frontend()
  else()
    message(STATUS "No CUDA toolkit (nvcc) was found: fusetape is built for the CPU only. See `make deps-cuda`.")
    set(FUSETAPE_CUDA OFF)
  endif()
endif()

# A build for the device has its double, too.
if(FUSETAPE_CUDA)
  set(FUSETAPE_CUDA_DOUBLE ON)
endif()

# fusetape_cuda_backend_sources(variable): what the library has of backends/cuda/, but for the device.
function(fusetape_cuda_backend_sources variable)
  set(sources "")
  if(FUSETAPE_CUDA_DOUBLE)
    include(cmake/FusetapeProgramHeaders.cmake)
    file(GLOB_RECURSE sources CONFIGURE_DEPENDS backends/cuda/*.cpp)
    list(APPEND sources ${FUSETAPE_PROGRAM_SOURCE})
    list(FILTER sources EXCLUDE REGEX "backends/cuda/(unavailable.cpp$|device/)")
  endif()
  if(NOT FUSETAPE_CUDA)
    list(APPEND sources backends/cuda/unavailable.cpp)
  endif()
  set(${variable} ${sources} PARENT_SCOPE)
endfunction()

# fusetape_add_cuda_device(target): compiles the device's sources into the target.
function(fusetape_add_cuda_device target)
  file(GLOB sources CONFIGURE_DEPENDS backends/cuda/device/*.cpp backends/cuda/device/*.cu)
  add_library(fusetape_cuda_device OBJECT ${sources})
  fusetape_apply_flags(fusetape_cuda_device)
  set_target_properties(fusetape_cuda_device PROPERTIES CUDA_STANDARD 20 CUDA_EXTENSIONS OFF)
  target_include_directories(fusetape_cuda_device PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
  target_link_libraries(fusetape_cuda_device PRIVATE fusetape::cudnn_frontend ${FUSETAPE_CUDA_LIBRARIES})
  # As on the host, only an explicit fma fuses. Host and device share constexpr functions.
  target_compile_options(fusetape_cuda_device PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;--expt-relaxed-constexpr;-Werror=all-warnings>")

  target_sources(${target} PRIVATE $<TARGET_OBJECTS:fusetape_cuda_device>)
  target_link_libraries(${target} PRIVATE ${FUSETAPE_CUDA_LIBRARIES})
  # Its user's project need not know the language.
  set_target_properties(${target} PROPERTIES LINKER_LANGUAGE CXX)
endfunction()
