// Files that the supervisor put into programs: which of the kernel's files each stands for, and when the last
// descriptor and the last mapping of it are gone.
#pragma once
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "machine/intercept/target.h"
#include "machine/wire/lent_turn.h"

namespace perdure::intercept {

class Registry {
 public:
  // Emfile and what else inotify says: Linux limits how many of them a user may have.
  static Result<std::unique_ptr<Registry>> create();

  struct Entry {
    u64 handle = 0;         // the kernel's
    std::string name;       // of its type, as /proc shows it
    std::string path;       // of the node that was opened; or of the file in sysfs that takes orders
    int access = 0;         // O_RDONLY, O_WRONLY or O_RDWR, as it was opened
    bool mappable = false;  // a file that can be mapped and has positions; else a socket
    int memory = -1;        // the file's own memory, while it is registered and mappable
    bool orders = false;    // a file in sysfs; it has no handle
  };

  // A new file that stands for `handle`, to be put into a program; known from now on. `path`: of the node, if it has
  // one; `flags`: of the open.
  Result<host::Descriptor> make(u64 handle, const std::string& name, const std::string& path, int flags);
  // A file of sysfs that takes orders. What is written to it in other ways than the supervisor sees is told later.
  Result<host::Descriptor> make_orders(const std::string& path, const std::string& text, int flags);
  std::optional<Entry> find(FileId id) const;
  // Those that stand for files of the kernel, so many at most.
  std::vector<wire::LentFile> lent_files(usize most) const;
  // It came to no program: nothing is closed.
  void forget(u64 handle);
  struct Order {
    std::string path;
    std::string text;
  };
  struct Events {
    std::vector<u64> closed;  // handles of files that nobody has any more; each is told once
    std::vector<Order> orders;
  };
  // What happened since the last call.
  Events take_events();
  // Readable when there may be some.
  int poll_fd() const { return epoll_.get(); }

 private:
  struct File {
    Entry entry;
    host::Descriptor ours;  // the memory, or the other end
    int watch = -1;
    usize obeyed = 0;  // bytes of orders that were told
  };
  struct Hash {
    usize operator()(const FileId& id) const { return std::hash<u64>()(id.inode * 31 + id.device); }
  };
  using Files = std::unordered_map<FileId, File, Hash>;

  Registry(host::Descriptor epoll, host::Descriptor inotify) : epoll_(std::move(epoll)), inotify_(std::move(inotify)) {}
  Result<host::Descriptor> make_memory(File file, const std::string& text, int flags);
  Result<host::Descriptor> make_socket(File file);
  void remove_locked(Files::iterator file);
  void take_inotify_locked(Events& events);
  void take_orders_locked(File& file, Events& events) const;

  host::Descriptor epoll_;
  host::Descriptor inotify_;
  mutable std::mutex mutex_;
  Files files_;
  std::unordered_map<int, FileId> watched_;    // by watch
  std::unordered_map<int, FileId> connected_;  // by our end
};

}  // namespace perdure::intercept
