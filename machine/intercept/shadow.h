// Files that take the place of the host's: looked up by path, and as a tree in a private directory, so that directories
// can be listed and files read by programs themselves.
#pragma once
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

  // What the kernel's devices look like now. Einval: the text is no such description; nothing changes.
  Result<void> update(const std::string& devices);
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
};

}  // namespace perdure::intercept
