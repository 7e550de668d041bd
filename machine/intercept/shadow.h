// Files that take the place of the host's: looked up by path, and as a tree in a private directory, so that directories
// can be listed and files read by programs themselves.
#pragma once
#include <atomic>
#include <filesystem>
#include <memory>
#include <shared_mutex>

#include "core/base/result.h"
#include "machine/intercept/sysfs_tree.h"

namespace perdure::intercept {

class Shadow {
 public:
  // With nothing but the nodes that are there on any machine. What mkdtemp() says.
  static Result<std::unique_ptr<Shadow>> create();
  ~Shadow();
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;

  // A question to the kernel begins: its answer tells of what was before, at least.
  u64 ask() { return asked_.fetch_add(1) + 1; }
  // What the kernel's devices look like, and whether a next kernel is loaded, as the answer to that question says. What
  // was asked before the question of another answer that came here sooner changes nothing. Einval: the text is no such
  // description.
  Result<void> update(u64 question, const std::string& devices, bool next_is_loaded);
  // Of an absolute path without links in its directories.
  Node find(const std::string& path) const;
  // Where it stands in the private directory, and back (empty: nowhere).
  std::string place_of(const std::string& path) const { return (root_ / path.substr(1)).string(); }
  std::string path_of(const std::string& place) const;

 private:
  explicit Shadow(std::filesystem::path root) : root_(std::move(root)) {}
  void apply(const NodeTree& next);

  const std::filesystem::path root_;
  mutable std::shared_mutex mutex_;
  NodeTree tree_;
  std::string devices_;  // that it was made from
  bool next_is_loaded_ = false;
  u64 answered_ = 0;
  std::atomic<u64> asked_{0};
};

}  // namespace perdure::intercept
