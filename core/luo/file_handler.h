// What a file type supplies to be preserved across a live update (kho-luo §2.4), and shared state whose
// life follows the preserved files of its handlers (FLB, §2.8).
#pragma once
#include <string_view>

#include "core/file/file.h"
#include "core/luo/session.h"

namespace perdure::luo {

// One preserved file during one callback. `data` is the handler's u64 that crosses the jump.
struct FileState {
  Session& session;
  u64 token = 0;
  File* file = nullptr;  // null in the new kernel until retrieved
  u64 data = 0;
  void* private_data = nullptr;  // the handler's, from one callback to the next
  // 0 never tried, 1 retrieved; minus the Errno if retrieving failed.
  int retrieve_status = 0;
  // A reference that a failing retrieve() gives up and that may be the last one: dropped when no lock is held.
  Ref<File> discard = nullptr;
};

// Callbacks run under the session's lock and must not enter LUO for the same session, except through `session`. A file
// reference that a callback drops must not be the last one, since last closes run without locks: see discard.
class FileHandler {
 public:
  // Unique, at most 47 characters; written to the image.
  virtual std::string_view compatible() const = 0;
  // Handlers are asked in the order of registration; under the registry's lock.
  virtual bool can_preserve(File& file) const = 0;
  // Identity of what is preserved, so that one object is in one session only.
  virtual u64 id(File& file) const { return reinterpret_cast<u64>(&file); }

  // Old kernel. preserve fills data and private_data and undoes its own part on failure. freeze may change
  // data, and undoes its own part on failure; after a later failure unfreeze is called for every file that froze.
  virtual Result<void> preserve(FileState& state) = 0;
  virtual void unpreserve(FileState& state) = 0;
  virtual Result<void> freeze(FileState&) { return {}; }
  virtual void unfreeze(FileState&) {}

  // New kernel. A failed retrieve is remembered. can_finish and finish must cope with a file that was never
  // retrieved (status 0) or failed (< 0).
  virtual Result<Ref<File>> retrieve(FileState& state) = 0;
  virtual bool can_finish(FileState&) { return true; }
  virtual void finish(FileState& state) = 0;

  // Whether a session never retrieved in this kernel can be handed on to the next one (forwarding, design §7):
  // preserves again, from the incoming record, what the record names, under session.next_generation(). Returns the
  // outgoing data. FLBs of the handler are preserved before. Undoes its own part on failure.
  virtual Result<u64> forward(FileState&) { return fail(Errno::Eopnotsupp); }
  // The jump did not happen after all: gives up what forward() preserved. `outgoing`: what it returned.
  virtual void unforward(FileState&, [[maybe_unused]] u64 outgoing) {}

 protected:
  ~FileHandler() = default;
};

// Callbacks run under the registry's locks and must not enter LUO.
class Flb {
 public:
  // Unique, at most 47 characters; written to the image.
  virtual std::string_view compatible() const = 0;
  // Old kernel: before the first / after the last dependent file. Returns the u64 that crosses the jump.
  virtual Result<u64> preserve() = 0;
  virtual void unpreserve(u64 data) = 0;
  // Just before serialization, when no file can change any more: last chance to seal records. Not undone if the jump
  // fails later; called again for the next one.
  virtual Result<u64> freeze(u64 data) { return data; }
  // New kernel: on the first get_incoming(), and after the last dependent file has finished. finish() comes even if
  // nobody asked for the state, so without retrieve() before.
  virtual Result<void> retrieve(u64 data) = 0;
  virtual void finish(u64 data) = 0;

 protected:
  ~Flb() = default;
};

}  // namespace perdure::luo
