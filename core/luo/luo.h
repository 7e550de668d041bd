// The live update orchestrator: sessions of preserved files, outgoing and incoming, in the luo-v5 format
// (kho-luo §2). /dev/liveupdate is luo/device.h.
#pragma once
#include <string_view>

#include "core/luo/file_handler.h"

namespace perdure::luo {

class Luo;

// For handlers that depend on one another's files, called from their own callbacks, under the session's lock.
class Session {
 public:
  // Old kernel: the token under which `file` is preserved in this session. Enoent if it is not.
  virtual Result<u64> token_of(File& file) const = 0;
  // New kernel: the file retrieved under `token`; retrieves it if that did not happen yet. Enoent.
  virtual Result<Ref<File>> file_of(u64 token) = 0;
  virtual std::string_view name() const = 0;
  // Ties the records of one update together: unique per update and session.
  virtual u64 generation() const = 0;

 protected:
  ~Session() = default;
};

}  // namespace perdure::luo
