#include "core/luo/incoming_session.h"

#include <cstring>

#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/luo/luo.h"

namespace perdure::luo {

IncomingSession::IncomingSession(Luo& luo, const SessionSer& entry, u64 generation, u64 next_generation)
    : luo_(luo),
      generation_(generation),
      next_generation_(next_generation),
      tokens_(luo.heap()),
      blocks_(luo.kho(), sizeof(FileSer)) {
  set_text(name_, text_of(entry.name));
}

// Whatever was not finished stays where it is: the memory remains reserved.
IncomingSession::~IncomingSession() {
  Finished finished;
  MutexGuard guard(lock_);
  while (FileRecord* record = files_.pop_front()) {
    luo_.objects().remove(*record);
    if (record->handler != nullptr) luo_.registry().put(*record->handler);
    finished.take(*record);
  }
}

// --- loading ----------------------------------------------------------------------------------------------------

Result<void> IncomingSession::load(const SessionSer& entry) {
  MutexGuard guard(lock_);
  const auto broken = [&](std::string_view why) {
    log(luo_.machine(), LogLevel::Error,
        Line() << "luo: session \"" << name() << "\" of the former kernel " << why
               << "; its files cannot be retrieved, their memory stays reserved");
    broken_ = true;
  };
  if (entry.files == 0) {
    if (entry.count != 0) broken("counts files but has no list of them");
    return {};
  }
  const auto blocks =
      kho::BlockReader::open(luo_.kho(), Phys(entry.files), sizeof(FileSer), "a session's list of files");
  if (!blocks) {
    if (blocks.error() == Errno::Enomem) return fail(Errno::Enomem);
    broken("has an unreadable list of files");
    return {};
  }
  if (blocks->count() != entry.count) {
    broken("counts other than its list of files");
    return {};
  }
  return blocks->each([&](const std::byte* at) NO_THREAD_SAFETY_ANALYSIS -> Result<void> {
    FileSer file;
    memcpy(&file, at, sizeof file);
    return load_file(file);
  });
}

Result<void> IncomingSession::load_file(const FileSer& entry) {
  auto record = TRY(luo_.heap().make<FileRecord>(luo_.heap(), entry.token));
  record->data = entry.data;
  const std::string_view compatible = text_of(entry.compatible);
  if (compatible.empty()) {
    log(luo_.machine(), LogLevel::Error,
        Line() << "luo: session \"" << name() << "\": the file with token " << Hex{entry.token}
               << " has no readable type; it cannot be retrieved");
    record->retrieve_status = -static_cast<int>(Errno::Eio);
  } else {
    set_text(record->compatible, compatible);
    TRY(luo_.registry().arrived(compatible));
  }
  // Linux does not look for doubles, and the first one wins.
  const bool twice = tokens_.find(entry.token, [&](const FileRecord& r) { return r.token == entry.token; }) != nullptr;
  FileRecord& kept = *record.release();
  files_.push_back(kept);
  if (!twice) {
    tokens_.insert(kept, kept.token);
  } else {
    log(luo_.machine(), LogLevel::Warn,
        Line() << "luo: session \"" << name() << "\" has token " << Hex{entry.token} << " twice; the first one counts");
  }
  return {};
}

// --- retrieving -------------------------------------------------------------------------------------------------

Result<void> IncomingSession::claim() {
  MutexGuard guard(lock_);
  if (state_ != State::Listed) return fail(Errno::Einval);
  state_ = State::Retrieved;
  return {};
}

void IncomingSession::unclaim() {
  MutexGuard guard(lock_);
  PERDURE_ASSERT(state_ == State::Retrieved);
  state_ = State::Listed;
}

IncomingSession::State IncomingSession::state() const {
  MutexGuard guard(lock_);
  return state_;
}

HandlerEntry* IncomingSession::handler_of_locked(FileRecord& record) {
  if (record.handler == nullptr && record.compatible[0] != '\0')
    record.handler = luo_.registry().get_named(text_of(record.compatible));
  return record.handler;
}

Result<Ref<File>> IncomingSession::retrieve(u64 token) {
  const auto pass = TRY(Gate::Pass::enter(luo_.gate()));
  MutexGuard guard(lock_);
  return retrieve_locked(token);
}

Result<Ref<File>> IncomingSession::retrieve_locked(u64 token) {
  FileRecord* record = tokens_.find(token, [&](const FileRecord& r) { return r.token == token; });
  if (record == nullptr) return fail(broken_ && state_ == State::Retrieved ? Errno::Eio : Errno::Enoent);
  if (record->retrieve_status == 1) return record->file;
  if (record->retrieve_status < 0) return fail(static_cast<Errno>(-record->retrieve_status));
  if (record->retrieving) return fail(Errno::Edeadlock);
  HandlerEntry* handler = handler_of_locked(*record);
  if (handler == nullptr) {
    log(luo_.machine(), LogLevel::Error,
        Line() << "luo: session \"" << name() << "\": nobody here can retrieve a " << text_of(record->compatible)
               << " (token " << Hex{token} << ")");
    return fail(Errno::Enoent);
  }
  FileState state = record->state(*this);
  record->retrieving = true;
  auto file = handler->handler.retrieve(state);
  record->retrieving = false;
  record->take(state);
  Errno error = file ? Errno::Eio : file.error();
  if (file) {
    const auto added = luo_.objects().add(*record, handler->handler.id(**file));
    if (added) {
      record->file = std::move(*file);
      record->retrieve_status = 1;
      return record->file;
    }
    error = added.error();
    record->discard = std::move(*file);
  }
  record->retrieve_status = -static_cast<int>(error);
  log(luo_.machine(), LogLevel::Error,
      Line() << "luo: session \"" << name() << "\": " << text_of(record->compatible) << " with token " << Hex{token}
             << " cannot be retrieved: " << error);
  return fail(error);
}

// --- finishing --------------------------------------------------------------------------------------------------

Result<void> IncomingSession::finish_locked(Finished& finished) {
  for (FileRecord& record : files_) {
    HandlerEntry* handler = handler_of_locked(record);
    FileState state = record.state(*this);
    if (handler == nullptr) continue;
    const bool ready = handler->handler.can_finish(state);
    record.take(state);
    if (!ready) return fail(Errno::Ebusy);
  }
  while (!files_.empty()) {
    // Stays in the list during its callback, which may ask for its neighbours.
    FileRecord& record = files_.back();
    FileState state = record.state(*this);
    if (record.handler != nullptr) {
      record.handler->handler.finish(state);
    } else {
      log(luo_.machine(), LogLevel::Warn,
          Line() << "luo: session \"" << name() << "\": nobody here knows what token " << Hex{record.token}
                 << " is; its memory stays reserved");
    }
    files_.remove(record);
    if (record.compatible[0] != '\0') luo_.registry().finished(text_of(record.compatible));
    luo_.objects().remove(record);
    if (record.handler != nullptr) luo_.registry().put(*record.handler);
    if (tokens_.find(record.token, [&](const FileRecord& r) { return &r == &record; }) != nullptr)
      tokens_.remove(record);
    finished.take(record);
  }
  state_ = State::Finished;
  return {};
}

Result<void> IncomingSession::finish() {
  Finished finished;
  const auto pass = TRY(Gate::Pass::enter(luo_.gate()));
  MutexGuard guard(lock_);
  if (state_ == State::Finished) return {};
  return finish_locked(finished);
}

bool IncomingSession::settle(Finished& finished) {
  MutexGuard guard(lock_);
  return state_ == State::Finished || (state_ == State::Zombie && finish_locked(finished).has_value());
}

void IncomingSession::close() {
  for (;;) {
    Finished finished;
    {
      const auto pass = Gate::Pass::enter(luo_.gate());
      if (pass) {
        {
          MutexGuard guard(lock_);
          if (state_ != State::Finished && !finish_locked(finished)) {
            state_ = State::Zombie;
            log(luo_.machine(), LogLevel::Warn,
                Line() << "luo: session \"" << name()
                       << "\" was closed although a file of it cannot be finished yet; it stays until that can be");
            return;
          }
        }
        luo_.remove(*this);
        return;
      }
    }
    if (luo_.orphan(*this)) return;
  }
}

// --- forwarding -------------------------------------------------------------------------------------------------

Result<void> IncomingSession::forward(SessionSer& slot) {
  MutexGuard guard(lock_);
  const auto refuse = [&](const FileRecord& record, std::string_view why, Errno e) {
    log(luo_.machine(), LogLevel::Error,
        Line() << "luo: session \"" << name()
               << "\" was never retrieved and cannot be handed on: " << text_of(record.compatible) << " with token "
               << Hex{record.token} << " " << why << "; retrieve the session and finish it first");
    return fail(e);
  };
  u64 count = 0;
  for (FileRecord& record : files_) {
    HandlerEntry* handler = handler_of_locked(record);
    const auto one = [&]() NO_THREAD_SAFETY_ANALYSIS -> Result<void> {
      if (handler == nullptr) return refuse(record, "is of an unknown type", Errno::Ebusy);
      if (record.retrieve_status != 0) return refuse(record, "was tried already", Errno::Ebusy);
      if (const auto r = blocks_.grow(count + 1); !r) return refuse(record, "finds no memory", r.error());
      if (const auto r = luo_.registry().preserve(*handler); !r)
        return refuse(record, "needs a state that cannot be preserved", r.error());
      FileState state = record.state(*this);
      const auto data = handler->handler.forward(state);
      record.take(state);
      if (!data) {
        luo_.registry().unpreserve(*handler);
        // Whoever cannot forward at all says so; for the caller that is a reason to wait.
        const Errno e = data.error() == Errno::Eopnotsupp ? Errno::Ebusy : data.error();
        return refuse(record, "is refused by its handler", e);
      }
      record.forwarded_data = *data;
      auto& entry = *reinterpret_cast<FileSer*>(blocks_.append());
      set_text(entry.compatible, text_of(record.compatible));
      entry.data = *data;
      entry.token = record.token;
      return {};
    };
    if (const auto r = one(); !r) {
      unforward_before_locked(&record);
      return r;
    }
    ++count;
  }
  set_text(slot.name, name());
  slot.files = blocks_.head().value;
  slot.count = count;
  forwarded_ = true;
  return {};
}

void IncomingSession::unforward_before_locked(const FileRecord* end) {
  for (FileRecord* record = end != nullptr ? files_.prev(const_cast<FileRecord&>(*end))
                                           : (files_.empty() ? nullptr : &files_.back());
       record != nullptr; record = files_.prev(*record)) {
    FileState state = record->state(*this);
    record->handler->handler.unforward(state, record->forwarded_data);
    record->take(state);
    luo_.registry().unpreserve(*record->handler);
  }
  blocks_.clear();
  blocks_.shrink(0);
  forwarded_ = false;
}

void IncomingSession::unforward() {
  MutexGuard guard(lock_);
  unforward_before_locked(nullptr);
}

// --- Session ----------------------------------------------------------------------------------------------------

Result<u64> IncomingSession::token_of(File& file) const {
  lock_.assert_held();
  for (const FileRecord& record : files_) {
    if (record.file.get() == &file && record.retrieve_status == 1) return record.token;
  }
  return fail(Errno::Enoent);
}

Result<Ref<File>> IncomingSession::file_of(u64 token) {
  lock_.assert_held();
  return retrieve_locked(token);
}

}  // namespace perdure::luo
