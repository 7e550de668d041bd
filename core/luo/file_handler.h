// What a file type supplies to be preserved across a live update (kho-luo §2.4), and shared state whose
// life follows the preserved files of its handlers (FLB, §2.8).
#pragma once
#include <string_view>

#include "core/file/file.h"

namespace perdure::luo {

class Session;

// One preserved file during one callback. `data` is the handler's u64 that crosses the jump.
struct FileState {
  Session& session;
  u64 token = 0;
  File* file = nullptr;  // null in the new kernel until retrieved
  u64 data = 0;
  void* private_data = nullptr;  // the handler's, old kernel only
  // 0 never tried, 1 retrieved; an Errno if retrieving failed.
  int retrieve_status = 0;
};

class FileHandler {
 public:
  // Unique, at most 47 characters; written to the image.
  virtual std::string_view compatible() const = 0;
  virtual bool can_preserve(File& file) const = 0;
  // Identity of what is preserved, so that one object is in one session only.
  virtual u64 id(File& file) const { return reinterpret_cast<u64>(&file); }

  // Old kernel. preserve fills data and private_data and undoes its own part on failure. freeze may change
  // data; after a later failure unfreeze is called for every file that froze.
  virtual Result<void> preserve(FileState& state) = 0;
  virtual void unpreserve(FileState& state) = 0;
  virtual Result<void> freeze(FileState&) { return {}; }
  virtual void unfreeze(FileState&) {}

  // New kernel. A failed retrieve is remembered. finish must cope with a file that was never retrieved.
  virtual Result<Ref<File>> retrieve(FileState& state) = 0;
  virtual bool can_finish(FileState&) { return true; }
  virtual void finish(FileState& state) = 0;

  // Whether a session never retrieved in this kernel can be handed on to the next one (forwarding, design §7):
  // preserves again, from the incoming record, what the record names. Returns the outgoing data.
  virtual Result<u64> forward(FileState&) { return fail(Errno::Eopnotsupp); }

 protected:
  ~FileHandler() = default;
};

class Flb {
 public:
  virtual std::string_view compatible() const = 0;
  // Old kernel: before the first / after the last dependent file. Returns the u64 that crosses the jump.
  virtual Result<u64> preserve() = 0;
  virtual void unpreserve(u64 data) = 0;
  // Just before serialization, when no file can change any more: last chance to seal records.
  virtual Result<u64> freeze(u64 data) { return data; }
  // New kernel: on the first get_incoming(), and after the last dependent file has finished.
  virtual Result<void> retrieve(u64 data) = 0;
  virtual void finish(u64 data) = 0;

 protected:
  ~Flb() = default;
};

}  // namespace perdure::luo
