#include "core/luo/status.h"

#include "core/luo/luo.h"

namespace perdure::luo {

std::string_view progress_name(SessionProgress progress) {
  switch (progress) {
    case SessionProgress::Outgoing: return "outgoing";
    case SessionProgress::Waiting: return "waiting";
    case SessionProgress::Retrieved: return "retrieved";
    case SessionProgress::Finished: return "finished";
    case SessionProgress::Stuck: return "stuck";
  }
  return "?";
}

std::string_view progress_name(FileProgress progress) {
  switch (progress) {
    case FileProgress::Preserved: return "preserved";
    case FileProgress::Waiting: return "waiting";
    case FileProgress::Retrieved: return "retrieved";
    case FileProgress::Failed: return "failed";
  }
  return "?";
}

void OutgoingSession::describe(SessionVisitor& visitor) const {
  MutexGuard guard(lock_);
  SessionStatus session;
  session.name = name();
  session.files = count_;
  visitor.session(session);
  for (const FileRecord& record : files_) {
    visitor.file({.token = record.token, .type = record.handler->handler.compatible()});
  }
}

void IncomingSession::describe(SessionVisitor& visitor) const {
  MutexGuard guard(lock_);
  SessionStatus session;
  session.name = name();
  switch (state_) {
    case State::Listed: session.progress = SessionProgress::Waiting; break;
    case State::Retrieved: session.progress = SessionProgress::Retrieved; break;
    case State::Finished: session.progress = SessionProgress::Finished; break;
    case State::Zombie: session.progress = SessionProgress::Stuck; break;
  }
  session.damaged = broken_;
  for (const FileRecord& record : files_) {
    ++session.files;
    session.retrieved += record.retrieve_status > 0 ? 1 : 0;
    session.failed += record.retrieve_status < 0 ? 1 : 0;
  }
  visitor.session(session);
  for (const FileRecord& record : files_) {
    FileStatus file{.token = record.token, .type = text_of(record.compatible), .progress = FileProgress::Waiting};
    if (record.retrieve_status > 0) file.progress = FileProgress::Retrieved;
    if (record.retrieve_status < 0) {
      file.progress = FileProgress::Failed;
      file.error = static_cast<Errno>(-record.retrieve_status);
    }
    visitor.file(file);
  }
}

void Luo::describe(SessionVisitor& visitor) const {
  MutexGuard guard(lock_);
  for (const IncomingSession& session : incoming_) session.describe(visitor);
  for (const OutgoingSession& session : outgoing_) session.describe(visitor);
}

}  // namespace perdure::luo
