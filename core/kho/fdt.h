// Flattened device trees as KHO uses them: one page, a root with properties, blobs as its children. Reading
// trusts nothing; writing works in place and leaves the tree packed and complete after every step.
#pragma once
#include <span>
#include <string_view>

#include "core/base/function_ref.h"
#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure::kho {

// Why a tree cannot be used, and at which of its bytes.
struct FdtProblem {
  std::string_view what;
  u32 offset = 0;
};

class FdtReader {
 public:
  // A node: where its name starts in the structure block.
  struct Node {
    u32 at = 0;
  };

  // Checks header, every token and every name. The bytes must not change while the reader is used. Eproto, with the
  // reason in `problem`.
  static Result<FdtReader> open(std::span<const std::byte> bytes, FdtProblem& problem);

  Node root() const { return root_; }
  // The direct child of the root with exactly this name; Enoent.
  Result<Node> child(std::string_view name) const;
  // Enoent.
  Result<std::span<const std::byte>> property(Node node, std::string_view name) const;
  // A property of exactly 8 bytes, as the CPU stored it (no alignment is promised). Enoent, Einval.
  Result<u64> word(Node node, std::string_view name) const;
  void each_child(FunctionRef<void(std::string_view name, Node node)> visit) const;

 private:
  struct Token;
  FdtReader() = default;
  Token token_at(u32 at) const;
  u32 be32(u32 at) const;
  std::string_view text(u32 at, u32 end) const;

  std::span<const std::byte> bytes_;
  u32 struct_begin_ = 0;
  u32 struct_end_ = 0;
  u32 strings_begin_ = 0;
  u32 strings_end_ = 0;
  Node root_;
};

// The outgoing tree, which only this class writes.
class FdtPage {
 public:
  // An empty tree that points at the root of the radix tree.
  static void create(std::span<std::byte, kPageSize> page, Phys map_root);
  explicit FdtPage(std::span<std::byte, kPageSize> page) : page_(page) {}

  // Eexist; Enomem when the page is full; Einval for a name that libfdt's lookup would not find back (empty, with '/'
  // or '@' or NUL).
  Result<void> add_blob(std::string_view name, Phys at, u64 size);
  // False: no such blob.
  bool remove_blob(std::string_view name);

 private:
  std::span<std::byte, kPageSize> page_;
};

}  // namespace perdure::kho
