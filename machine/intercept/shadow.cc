#include "machine/intercept/shadow.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <mutex>
#include <nlohmann/json.hpp>
#include <ranges>

#include "machine/host/host_files.h"

namespace perdure::intercept {

namespace {

using Kind = Node::Kind;
namespace fs = std::filesystem;

void write_file(const std::string& place, const std::string& text) {
  // In one step for who reads it: the name is taken over by a whole file.
  const std::string fresh = place + ".new";
  {
    const host::Descriptor file(open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!file || write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) return;
  }
  rename(fresh.c_str(), place.c_str());
}

}  // namespace

Result<std::unique_ptr<Shadow>> Shadow::create() {
  std::error_code error;
  std::string pattern = (fs::temp_directory_path(error) / "perdure-run-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) return fail(host::last_error());
  std::unique_ptr<Shadow> shadow(new Shadow(pattern));
  TRY(shadow->update(shadow->ask(), "[]", false));
  return shadow;
}

Shadow::~Shadow() {
  std::error_code ignored;
  fs::remove_all(root_, ignored);
}

Result<void> Shadow::update(u64 question, const std::string& devices, bool next_is_loaded) {
  const std::scoped_lock lock(mutex_);
  if (question < answered_) return {};
  if (devices != devices_ || next_is_loaded != next_is_loaded_) {
    NodeTree next;
    try {
      next = node_tree(devices, next_is_loaded);
    } catch (const nlohmann::json::exception&) {
      return fail(Errno::Einval);
    }
    apply(next);
    tree_ = std::move(next);
    devices_ = devices;
    next_is_loaded_ = next_is_loaded;
  }
  answered_ = question;
  return {};
}

// In place: programs may have directories of it open.
void Shadow::apply(const NodeTree& next) {
  std::error_code ignored;
  for (const auto& [path, node] : std::ranges::reverse_view(tree_)) {
    const auto found = next.find(path);
    if (found == next.end() || found->second.kind != node.kind) fs::remove_all(place_of(path), ignored);
  }
  for (const auto& [path, node] : next) {
    const auto before = tree_.find(path);
    if (before != tree_.end() && before->second == node) continue;
    const std::string place = place_of(path);
    switch (node.kind) {
      case Kind::Through:
      case Kind::Directory: fs::create_directories(place, ignored); break;
      case Kind::File: write_file(place, node.text); break;
      case Kind::Device: write_file(place, {}); break;
      case Kind::Link:
        fs::remove(place, ignored);
        fs::create_symlink(node.text, place, ignored);
        break;
      case Kind::Foreign:
      case Kind::Absent: break;
    }
  }
}

Node Shadow::find(const std::string& path) const {
  const std::shared_lock lock(mutex_);
  if (const auto found = tree_.find(path); found != tree_.end()) return found->second;
  for (std::string above = path; above.size() > 1;) {
    above.resize(above.rfind('/'));
    const auto found = tree_.find(above);
    if (found == tree_.end()) continue;
    return {.kind = found->second.kind == Kind::Through ? Kind::Foreign : Kind::Absent};
  }
  return {};
}

std::string Shadow::path_of(const std::string& place) const {
  const std::string root = root_.string();
  if (place == root) return "/";
  return place.starts_with(root + "/") ? place.substr(root.size()) : std::string();
}

}  // namespace perdure::intercept
