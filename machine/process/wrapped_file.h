// Host files on their way into the kernel and out of it.
#pragma once
#include "core/file/host_files.h"
#include "machine/host/descriptor.h"
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

// The File over a host descriptor, which is taken over: the same object for the same memfd. Ebadf, Enomem.
Result<Ref<File>> wrap_host_file(HostFiles& files, host::HostObjects& objects, host::Descriptor fd);
// The host descriptor behind a shared memory file, -1 for other files.
int host_descriptor(File& file);

}  // namespace perdure::process
