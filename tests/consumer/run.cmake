# Installs the build into a scratch prefix, moves that elsewhere, and builds and runs the consumer against it. The
# consumer's machine has the headers of nothing that fusetape was built with.
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    string(REPLACE ";" " " command "${ARGV}")
    message(FATAL_ERROR "failed (${result}): ${command}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${SCRATCH})
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${SCRATCH}/installed)
file(RENAME ${SCRATCH}/installed ${SCRATCH}/prefix)
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR} -B ${SCRATCH}/build -G ${GENERATOR}
  -DCMAKE_MAKE_PROGRAM=${MAKE_PROGRAM} -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_BUILD_TYPE=Release
  -DCMAKE_PREFIX_PATH=${SCRATCH}/prefix "-DCMAKE_IGNORE_PATH=${HEADERS}")
file(STRINGS ${SCRATCH}/build/CMakeCache.txt headers_found REGEX "^[^#/]*INCLUDE_DIR[^=]*=/")
if(headers_found)
  message(FATAL_ERROR "a consumer does not compile with these: ${headers_found}")
endif()
run(${CMAKE_COMMAND} --build ${SCRATCH}/build)
run(${SCRATCH}/build/consumer)

if(NOT output STREQUAL "12\n")
  message(FATAL_ERROR "the consumer printed '${output}', not 12")
endif()
