// Descriptors of one program: kernel files by number, the lowest free one first.
#pragma once
#include <map>
#include <mutex>
#include <set>

#include "core/file/file.h"
#include "machine/host/host_calls.h"

namespace perdure::process {

class FdTable {
 public:
  FdTable() = default;
  ~FdTable() { close_all(); }
  FdTable(const FdTable&) = delete;
  FdTable& operator=(const FdTable&) = delete;

  // Ebadf.
  Result<Ref<File>> get(s32 fd);
  Result<s32> reserve();  // Emfile
  void install(s32 fd, Ref<File> file);
  void release(s32 fd);
  Result<void> close(s32 fd);  // Ebadf
  void close_all();
  // The kernel is gone: references are forgotten, nothing of it is touched.
  void abandon();

 private:
  static constexpr s32 kMost = 65536;
  std::mutex mutex_;
  std::map<s32, Ref<File>> files_;
  std::set<s32> reserved_;
};

}  // namespace perdure::process
