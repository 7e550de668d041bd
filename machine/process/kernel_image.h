// Kernel binaries as files: opened once, checked by their note, executed by descriptor, so that what was checked is
// what runs.
#pragma once
#include <filesystem>
#include <string>

#include "core/base/machine.h"
#include "machine/host/descriptor.h"

namespace perdure::process {

// A bare name is one of the kernels in the directory, a path is a path.
std::filesystem::path kernel_path(const std::filesystem::path& directory, std::string_view name);

class FileImage final : public KernelImage {
 public:
  // Enoent, Eacces; Enoexec when it is no ELF program.
  static Result<Ref<FileImage>> open(const std::filesystem::path& path);

  std::string_view name() const override { return name_; }
  std::string_view note() const override { return note_; }
  int fd() const { return fd_.get(); }

 private:
  FileImage(std::string name, std::string note, host::Descriptor fd)
      : name_(std::move(name)), note_(std::move(note)), fd_(std::move(fd)) {}
  void dispose() override { ::delete this; }
  std::string name_;
  std::string note_;
  host::Descriptor fd_;
};

}  // namespace perdure::process
