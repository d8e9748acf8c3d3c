# Writes OUTPUT with the git hash and the dirty flag of SOURCE; runs in each build, touches the file
# only when something changed.
execute_process(COMMAND git -C ${SOURCE} rev-parse HEAD
  OUTPUT_VARIABLE hash OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
set(dirty false)
if(failed)
  set(hash "unknown")
else()
  execute_process(COMMAND git -C ${SOURCE} status --porcelain --untracked-files=no
    OUTPUT_VARIABLE changes ERROR_QUIET)
  if(changes)
    set(dirty true)
  endif()
endif()
set(text "// Generated in each build.\n#pragma once\n#define PIPEMARK_VERSION \"${VERSION}\"\n")
string(APPEND text "#define PIPEMARK_GIT_HASH \"${hash}\"\n#define PIPEMARK_GIT_DIRTY ${dirty}\n")
set(before "")
if(EXISTS ${OUTPUT})
  file(READ ${OUTPUT} before)
endif()
if(NOT before STREQUAL text)
  file(WRITE ${OUTPUT} "${text}")
endif()
