# fusetape_apply_flags(target): how the project compiles its own code. Nothing here reaches a user's target.
find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # It takes precompiled headers only where it is told that macros of time and of the command line do not matter there.
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CCACHE_PROGRAM}")
  if(NOT DEFINED ENV{CCACHE_SLOPPINESS})
    list(PREPEND CMAKE_CXX_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env CCACHE_SLOPPINESS=pch_defines,time_macros)
  endif()
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${CCACHE_PROGRAM}")
endif()

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12)
  message(FATAL_ERROR "fusetape needs g++ 12 or later, this is ${CMAKE_CXX_COMPILER_VERSION}.")
elseif(CMAKE_CXX_COMPILER_ID MATCHES "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 16)
  message(FATAL_ERROR "fusetape needs clang 16 or later, this is ${CMAKE_CXX_COMPILER_VERSION}.")
endif()

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES AND PROJECT_IS_TOP_LEVEL)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

function(fusetape_apply_flags target)
  set_target_properties(${target} PROPERTIES
    CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)

  # AVX2 is the floor; Highway and oneDNN look for more at run time. Only an explicit fma may fuse, so that the
  # same expression gives the same bits in every kernel that contains it.
  set(flags -march=x86-64-v3 -ffp-contract=off -fno-math-errno)
  # A project that contains us may have no build type; its own flags may say how to optimise.
  if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES AND NOT CMAKE_CXX_FLAGS MATCHES "(^| )-O")
    list(APPEND flags -O3 -DNDEBUG)
  endif()

  # Designated initialisers leave fields out on purpose.
  list(APPEND flags -Wall -Wextra -Wno-missing-field-initializers)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
      list(APPEND flags -Wno-restrict)  # wrong about std::string's operator+ (GCC 105651)
    endif()
    if(FUSETAPE_WERROR)
      # The warnings that depend on the optimiser are wrong now and then: shown, but no reason to stop.
      list(APPEND flags -Werror -Wno-error=maybe-uninitialized -Wno-error=array-bounds
        -Wno-error=stringop-overflow -Wno-error=free-nonheap-object)
    endif()
  endif()
  fusetape_compile_options(${target} "${flags}")

  if(FUSETAPE_DEBUG_CHECKS)
    target_compile_definitions(${target} PRIVATE FUSETAPE_DEBUG_CHECKS=1 _GLIBCXX_ASSERTIONS)
  endif()
  if(FUSETAPE_SANITIZE)
    target_compile_options(${target} PRIVATE
      "$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${FUSETAPE_SANITIZE};-fno-sanitize-recover=all;-fno-omit-frame-pointer>")
    target_link_options(${target} PRIVATE -fsanitize=${FUSETAPE_SANITIZE})
  endif()
endfunction()

# What most files of a target begin with, parsed once. No file may rely on it: the preset `dev`, and so `make lint`, does
# without.
function(fusetape_precompile target)
  target_precompile_headers(${target} PRIVATE ${ARGN})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE -fpch-preprocess)  # for ccache
  endif()
endfunction()

# For the host's compiler, also where nvcc calls it.
function(fusetape_compile_options target flags)
  list(TRANSFORM flags PREPEND "-Xcompiler=" OUTPUT_VARIABLE passed_on)
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CXX>:${flags}>" "$<$<COMPILE_LANGUAGE:CUDA>:${passed_on}>")
endfunction()
