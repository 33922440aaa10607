# A project that has fusetape as a subdirectory, and no build type: the library is optimised all the same, the
# project is left alone. Configured only.
file(REMOVE_RECURSE ${SCRATCH})
file(WRITE ${SCRATCH}/source/CMakeLists.txt "
cmake_minimum_required(VERSION 3.22)
project(container LANGUAGES CXX)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
add_subdirectory(${SOURCE_DIR} fusetape)
add_executable(program ${SOURCE_DIR}/tests/consumer/main.cpp)
target_link_libraries(program PRIVATE fusetape::fusetape)
")

# expect(PATTERN yes|no FLAGS...): whether PATTERN is among the flags with which `file` is compiled.
function(expect file pattern wanted)
  execute_process(COMMAND ${CMAKE_COMMAND} -S ${SCRATCH}/source -B ${SCRATCH}/build -G ${GENERATOR}
    -DCMAKE_MAKE_PROGRAM=${MAKE_PROGRAM} -DCMAKE_CXX_COMPILER=${CXX} -Ddnnl_DIR=${dnnl_DIR} ${ARGN}
    RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${output}")
  endif()
  file(STRINGS ${SCRATCH}/build/compile_commands.json command REGEX "\"command\": .*${file} ?\"")
  set(found no)
  if(command MATCHES "${pattern}")
    set(found yes)
  endif()
  if(NOT command OR NOT found STREQUAL wanted)
    message(FATAL_ERROR "${pattern} for ${file} with '${ARGN}': expected ${wanted}, got ${command}")
  endif()
endfunction()

expect(core/tape/tape.cpp " -O3 -DNDEBUG " yes -DCMAKE_CXX_FLAGS= -DCMAKE_BUILD_TYPE=)
expect(consumer/main.cpp " -O" no -DCMAKE_CXX_FLAGS= -DCMAKE_BUILD_TYPE=)
expect(core/tape/tape.cpp " -O3 " no -DCMAKE_CXX_FLAGS=-O1 -DCMAKE_BUILD_TYPE=)
expect(core/tape/tape.cpp " -O3 " no -DCMAKE_CXX_FLAGS= -DCMAKE_BUILD_TYPE=Debug)
