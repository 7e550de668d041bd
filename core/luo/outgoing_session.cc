#include "core/luo/outgoing_session.h"

#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/file/task.h"
#include "core/luo/luo.h"

namespace perdure::luo {

OutgoingSession::OutgoingSession(Luo& luo, std::string_view name, u64 generation)
    : luo_(luo), generation_(generation), tokens_(luo.heap()), blocks_(luo.kho(), sizeof(FileSer)) {
  set_text(name_, name);
}

Result<void> OutgoingSession::preserve(Task& task, s32 fd, u64 token) {
  // Dropped after the locks: the program may have closed its descriptor meanwhile.
  Ref<File> file;
  const auto pass = TRY(Gate::Pass::enter(luo_.gate()));
  MutexGuard guard(lock_);
  return preserve_locked(task, fd, token, file);
}

Result<void> OutgoingSession::preserve_locked(Task& task, s32 fd, u64 token, Ref<File>& file) {
  if (tokens_.find(token, [&](const FileRecord& r) { return r.token == token; }) != nullptr) return fail(Errno::Eexist);
  TRY(blocks_.grow(count_ + 1));
  ScopeGuard shrink([&] {
    lock_.assert_held();
    blocks_.shrink(count_);
  });
  file = TRY(task.file(fd));
  auto record = TRY(luo_.heap().make<FileRecord>(luo_.heap(), token));
  ScopeGuard drop_file([&] { record->file = nullptr; });  // `file` still holds it
  record->file = file;

  record->handler = luo_.registry().get_for(*file);
  if (record->handler == nullptr) return fail(Errno::Enoent);
  HandlerEntry& entry = *record->handler;
  ScopeGuard put([&] { luo_.registry().put(entry); });
  TRY(luo_.objects().add(*record, entry.handler.id(*file)));
  ScopeGuard forget([&] { luo_.objects().remove(*record); });
  TRY(luo_.registry().preserve(entry));
  ScopeGuard flbs([&] { luo_.registry().unpreserve(entry); });
  FileState state = record->state(*this);
  TRY(entry.handler.preserve(state));
  record->take(state);

  flbs.dismiss();
  forget.dismiss();
  put.dismiss();
  drop_file.dismiss();
  shrink.dismiss();
  FileRecord& kept = *record.release();
  files_.push_back(kept);
  tokens_.insert(kept, token);
  ++count_;
  return {};
}

void OutgoingSession::unpreserve_all_locked(Finished& finished) {
  while (FileRecord* record = files_.pop_back()) {
    FileState state = record->state(*this);
    record->handler->handler.unpreserve(state);
    luo_.registry().unpreserve(*record->handler);
    luo_.objects().remove(*record);
    luo_.registry().put(*record->handler);
    tokens_.remove(*record);
    --count_;
    finished.take(*record);
  }
  blocks_.shrink(0);
}

void OutgoingSession::close() {
  for (;;) {
    Finished finished;
    {
      const auto pass = Gate::Pass::enter(luo_.gate());
      if (pass) {
        {
          MutexGuard guard(lock_);
          unpreserve_all_locked(finished);
        }
        luo_.remove(*this);
        return;
      }
    }
    // Frozen: no unpreserve any more, or the next kernel would not get what it was promised. If the freeze was just
    // undone, try again.
    if (luo_.orphan(*this)) return;
  }
}

// --- freeze -----------------------------------------------------------------------------------------------------

Result<void> OutgoingSession::freeze(SessionSer& slot) {
  MutexGuard guard(lock_);
  for (FileRecord& record : files_) {
    FileState state = record.state(*this);
    if (const auto r = record.handler->handler.freeze(state); !r) {
      log(luo_.machine(), LogLevel::Error,
          Line() << "luo: session \"" << name() << "\": " << record.handler->handler.compatible() << " with token "
                 << Hex{record.token} << " cannot be frozen: " << r.error());
      unfreeze_before_locked(&record);
      return r;
    }
    record.take(state);
    auto& entry = *reinterpret_cast<FileSer*>(blocks_.append());
    set_text(entry.compatible, record.handler->handler.compatible());
    entry.data = record.data;
    entry.token = record.token;
  }
  set_text(slot.name, name());
  slot.files = blocks_.head().value;
  slot.count = count_;
  frozen_ = true;
  return {};
}

void OutgoingSession::unfreeze_before_locked(const FileRecord* end) {
  for (FileRecord& record : files_) {
    if (&record == end) break;
    FileState state = record.state(*this);
    record.handler->handler.unfreeze(state);
    record.take(state);
  }
  blocks_.clear();
  frozen_ = false;
}

void OutgoingSession::unfreeze() {
  MutexGuard guard(lock_);
  unfreeze_before_locked(nullptr);
}

// --- Session ----------------------------------------------------------------------------------------------------

Result<u64> OutgoingSession::token_of(File& file) const {
  lock_.assert_held();
  for (const FileRecord& record : files_) {
    if (record.file.get() == &file) return record.token;
  }
  return fail(Errno::Enoent);
}

Result<Ref<File>> OutgoingSession::file_of(u64 token) {
  lock_.assert_held();
  const FileRecord* record = tokens_.find(token, [&](const FileRecord& r) { return r.token == token; });
  if (record == nullptr) return fail(Errno::Enoent);
  return record->file;
}

}  // namespace perdure::luo
