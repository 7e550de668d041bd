// An ELF program for x86-64, as every kernel is one: enough of it to place it and to read its note, with no trust in
// the file.
#pragma once
#include <string_view>

#include "core/base/function_ref.h"
#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure::abi {

class ElfProgram {
 public:
  struct Segment {
    u64 address = 0;
    std::string_view contents;  // of its start; the rest is zero
    u64 memory_bytes = 0;       // at least as many
  };

  // The file's bytes, which must stay. Enoexec: no program, or one that reaches beyond its file.
  static Result<ElfProgram> open(std::string_view file);
  bool position_independent() const;
  u64 entry() const;
  // The descriptor of its note "Perdure"; empty: none.
  std::string_view note() const;
  Result<void> each_segment(FunctionRef<Result<void>(const Segment&)> visit) const;

 private:
  explicit ElfProgram(std::string_view file) : file_(file) {}
  std::string_view file_;
};

}  // namespace perdure::abi
