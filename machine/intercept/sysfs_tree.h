// What sysfs and /dev show of a machine's functions, path by path (uapi.md §3.1).
#pragma once
#include <map>
#include <string>

#include "core/base/types.h"

namespace perdure::intercept {

struct Node {
  enum class Kind : u8 {
    Foreign,    // the host's
    Through,    // the host's, with something of ours below it
    Absent,     // not there, whatever the host has
    Directory,  // ours, with all that is below it
    File,
    Link,
    Device,
  };
  Kind kind = Kind::Foreign;
  u32 mode = 0;           // permissions
  std::string text = {};  // of a file or a link
  u32 major = 0;          // of a device
  u32 minor = 0;
  bool operator==(const Node&) const = default;

  bool ours() const { return kind >= Kind::Directory; }
};

using NodeTree = std::map<std::string, Node>;

// `devices`: the kernel's JSON text (wire::Call::Devices). Throws nlohmann's exceptions where it is none.
// `next_is_loaded`: a kernel to jump to is.
NodeTree node_tree(const std::string& devices, bool next_is_loaded);

}  // namespace perdure::intercept
