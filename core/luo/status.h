// What can be told of sessions and their files, for people and tools (kho-luo §6 row 9). Nothing here has an effect.
#pragma once
#include <string_view>

#include "core/base/errno.h"
#include "core/base/types.h"

namespace perdure::luo {

enum class SessionProgress : u8 {
  Outgoing,   // of this kernel: goes along with the next update
  Waiting,    // of the former kernel: nobody came yet, so it will be handed on
  Retrieved,  // in the middle of a transfer: no update until it is finished
  Finished,   // all given away; the descriptor is still open
  Stuck,      // closed while a file could not be finished: no update until it can be
};
enum class FileProgress : u8 { Preserved, Waiting, Retrieved, Failed };

struct FileStatus {
  u64 token = 0;
  std::string_view type;  // as in the image; empty: not readable
  FileProgress progress{};
  Errno error{};  // of a failed one: what every further try answers
};

struct SessionStatus {
  std::string_view name;
  SessionProgress progress{};
  bool damaged = false;  // its list of files could not be read
  u64 files = 0;
  u64 retrieved = 0;
  u64 failed = 0;
};

std::string_view progress_name(SessionProgress progress);
std::string_view progress_name(FileProgress progress);

// Called under the locks of sessions: must not enter LUO. Texts live for the time of the call.
class SessionVisitor {
 public:
  virtual void session(const SessionStatus& session) = 0;
  // Of the session told last, in the order of preservation.
  virtual void file(const FileStatus&) {}

 protected:
  ~SessionVisitor() = default;
};

}  // namespace perdure::luo
