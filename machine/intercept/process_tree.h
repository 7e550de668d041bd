// All that a program started, however far it went: daemons too come back to the supervisor, which is their subreaper.
#pragma once
#include <sys/types.h>

#include <optional>
#include <vector>

#include "machine/intercept/trap/tracer.h"

namespace perdure::intercept {

// Makes this process the parent of descendants that lose theirs.
void adopt_orphans();
// Descendants of this process, zombies too.
std::vector<pid_t> descendants();

struct Ended {
  pid_t pid = 0;
  int status = 0;  // as waitpid() has it
};
// A child that ended, its own or an adopted one; does not block. `tracer`, if any, may be told of some first.
std::optional<Ended> reap(const Tracer* tracer);
// There is a child, ended or not.
bool any_children();
// Kills all descendants and waits until they are gone. Returns those of them that were children of this process.
std::vector<Ended> end_descendants(const Tracer* tracer);

}  // namespace perdure::intercept
