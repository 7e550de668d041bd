// What a file handler sees of a session.
#pragma once
#include <string_view>

#include "core/base/ref.h"
#include "core/base/result.h"

namespace perdure {
class File;
}

namespace perdure::luo {

// For handlers that depend on one another's files, called from their own callbacks, under the session's lock.
class Session {
 public:
  // Old kernel: the token under which `file` is preserved in this session. Enoent if it is not.
  virtual Result<u64> token_of(File& file) const = 0;
  // New kernel: the file retrieved under `token`; retrieves it if that did not happen yet. Enoent; Edeadlock when
  // files need each other in a circle; else what its handler says, now or the first time.
  virtual Result<Ref<File>> file_of(u64 token) = 0;
  virtual std::string_view name() const = 0;
  // Ties the records of one update together: unique per update and session. Records are written with that of the
  // session they are preserved in, and compared with that of the session they are retrieved in.
  virtual u64 generation() const = 0;
  // In FileHandler::forward(): what the forwarded records must carry, since the next update is another one.
  virtual u64 next_generation() const { return generation(); }

 protected:
  ~Session() = default;
};

}  // namespace perdure::luo
