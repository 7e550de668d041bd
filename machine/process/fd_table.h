// Descriptors of one program: kernel files by number, host files wrapped on the way in.
#pragma once
#include <map>
#include <mutex>
#include <set>

#include "core/file/host_files.h"
#include "core/file/task.h"
#include "machine/host/descriptor.h"
#include "machine/host/host_calls.h"
#include "machine/host/host_files.h"

namespace perdure::process {

// A host file that the kernel knows nothing about: can be named, not used.
class OpaqueFile final : public File, private host::HostObjects::Object {
 public:
  static constexpr FileType kType{"host file"};
  explicit OpaqueFile(host::HostObjects& home) : Object(home) {}
  const FileType& type() const override { return kType; }

 private:
  void dispose() override { ::delete this; }
  void destroy() override { ::delete this; }
};

class FdTable {
 public:
  FdTable(HostFiles& host_files, host::HostObjects& host_objects)
      : host_files_(host_files), host_objects_(host_objects) {}
  ~FdTable() { close_all(); }
  FdTable(const FdTable&) = delete;
  FdTable& operator=(const FdTable&) = delete;

  // Ebadf.
  Result<Ref<File>> get(s32 fd);
  // The File over a host descriptor, which is taken over.
  Result<Ref<File>> wrap(host::Descriptor fd);
  Result<s32> reserve();  // Emfile
  void install(s32 fd, Ref<File> file);
  void release(s32 fd);
  Result<void> close(s32 fd);  // Ebadf
  void close_all();
  // The kernel is gone: references are forgotten, nothing of it is touched.
  void abandon();
  // The host descriptor behind a shared memory file, -1 for other files.
  static int host_descriptor(File& file);

 private:
  static constexpr s32 kMost = 65536;
  HostFiles& host_files_;
  host::HostObjects& host_objects_;
  std::mutex mutex_;
  std::map<s32, Ref<File>> files_;
  std::set<s32> reserved_;
};

}  // namespace perdure::process
