// What a program's path leads to, with the machine's files in the place of the host's.
#pragma once
#include <optional>
#include <string>

#include "machine/intercept/registry.h"
#include "machine/intercept/shadow.h"
#include "machine/intercept/target.h"

namespace perdure::intercept {

struct Found {
  // Where it leads: absolute, as the program would name it. Empty: to nothing of ours.
  std::string path;
  Node node = {};
  // A link in /proc to an open file of ours; `path` is that link's.
  std::optional<Registry::Entry> open_file = {};
  s32 status_of = 0;     // the process whose /proc/PID/status it is: the host's file, where lines are missing
  bool by_link = false;  // a symbolic link was followed

  bool ours() const {
    return open_file.has_value() || node.ours() || node.kind == Node::Kind::Absent || status_of != 0;
  }
};

class Paths {
 public:
  Paths(const Shadow& shadow, const Registry& registry) : shadow_(shadow), registry_(registry) {}

  // Relative to `directory` (AT_FDCWD: to where the program is). `follow`: a link at the end, too. What the program
  // gets as an error where a part of it is ours: Enotdir, Eloop.
  Result<Found> find(const Target& target, s32 directory, const std::string& path, bool follow) const;

 private:
  Result<std::string> start(const Target& target, s32 directory) const;
  std::optional<Registry::Entry> open_file(const Target& target, const std::string& path) const;

  const Shadow& shadow_;
  const Registry& registry_;
};

}  // namespace perdure::intercept
