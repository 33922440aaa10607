# Puts the text of the headers that CUDA kernels are generated around into the library (program_headers.hpp).
# An edit of one of them configures anew.
set(FUSETAPE_PROGRAM_HEADERS
  core/numerics/host_device.hpp core/numerics/half.hpp core/numerics/formulas.hpp backends/cuda/kernels/program_elements.hpp)
set(FUSETAPE_PROGRAM_TEXT "")
foreach(header IN LISTS FUSETAPE_PROGRAM_HEADERS)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${header})
  file(READ ${PROJECT_SOURCE_DIR}/${header} text)
  if(header STREQUAL "core/numerics/formulas.hpp")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/core/numerics/formulas.inc)
    file(READ ${PROJECT_SOURCE_DIR}/core/numerics/formulas.inc formulas)
    string(REPLACE "#include \"core/numerics/formulas.inc\"\n" "${formulas}" text "${text}")
  endif()
  string(REGEX REPLACE "#(pragma once|include [^\n]*)\n" "" text "${text}")
  string(APPEND FUSETAPE_PROGRAM_TEXT "${text}")
endforeach()
set(FUSETAPE_PROGRAM_SOURCE ${PROJECT_BINARY_DIR}/generated/program_headers.cpp)
configure_file(${CMAKE_CURRENT_LIST_DIR}/program_headers.cpp.in ${FUSETAPE_PROGRAM_SOURCE} @ONLY)
