#include "machine/intercept/task_questions.h"

#include <fcntl.h>

#include <algorithm>

#include "machine/intercept/memory_map.h"

namespace perdure::intercept {

using wire::Question;
using wire::Reply;

namespace {
// Core's Access::Write, which a supervisor does not see.
constexpr u64 kWriteAccess = 2;
}  // namespace

Result<Reply> TaskQuestions::answer(wire::Message& question) {
  const wire::Header& head = question.head;
  switch (static_cast<Question>(head.op)) {
    case Question::CopyIn: return copy_in(head.a, head.b);
    case Question::CopyOut: TRY(target_.write(head.a, question.payload)); return Reply{};
    case Question::Descriptor: return descriptor(static_cast<s32>(head.a));
    case Question::Resolve: return resolve(head.a, head.b, head.c);
    case Question::OwnMapping: return own_mapping(head.a, head.c);
    case Question::MayInstall: TRY(target_.may_install()); return Reply{};
    case Question::Install: return install(question);
    default: return fail(Errno::Eproto);
  }
}

Result<Reply> TaskQuestions::copy_in(u64 at, u64 bytes) const {
  if (bytes > wire::kMaxPayload) return fail(Errno::Eproto);
  Reply reply;
  reply.payload.resize(bytes);
  TRY(target_.read(reply.payload, at));
  return reply;
}

Result<Reply> TaskQuestions::descriptor(s32 fd) const {
  Reply reply;
  if (const auto ours = registry_.find(TRY(target_.file_id(fd)))) {
    reply.a = ours->handle;
    return reply;
  }
  reply.a = wire::kNoHandle;
  if (auto made_here = events_.find(target_, fd)) {
    reply.own = std::move(*made_here);
  } else {
    // It names a file and is no opening of it.
    if ((TRY(target_.flags(fd)) & O_PATH) != 0) return fail(Errno::Ebadf);
    reply.own = TRY(target_.duplicate(fd));
  }
  return reply;
}

Result<Reply> TaskQuestions::resolve(u64 at, u64 bytes, u64 access) const {
  const MappedArea area = TRY(area_at(target_, at));
  if ((access & kWriteAccess) != 0 ? !area.writable : !area.readable) return fail(Errno::Efault);
  // A BAR: memory of devices is no memory that could be pinned.
  if (registry_.find(area.file)) return fail(Errno::Efault);
  Reply reply;
  reply.b = std::min(bytes, area.end - at);
  if (area.shared && area.file.inode != 0) {
    reply.own = open_area(target_, area);
    if (reply.own) {
      reply.a = area.offset + (at - area.start);
      reply.c = static_cast<u64>(wire::Piece::Shared);
      return reply;
    }
  }
  // Not what the host's kernel has put there for itself.
  TRY(target_.read<std::byte>(at));
  reply.c = static_cast<u64>(wire::Piece::Remote);
  reply.own = host::Descriptor(open(target_.proc("mem").c_str(), O_RDWR | O_CLOEXEC));
  return reply;
}

Result<Reply> TaskQuestions::own_mapping(u64 at, u64 access) const {
  const MappedArea area = TRY(area_at(target_, at));
  const auto ours = registry_.find(area.file);
  if (!ours || !((access & kWriteAccess) != 0 ? area.writable : area.readable)) return fail(Errno::Efault);
  Reply reply;
  reply.a = ours->handle;
  reply.b = area.end - at;
  reply.c = area.offset + (at - area.start);
  return reply;
}

Result<Reply> TaskQuestions::install(wire::Message& question) {
  const bool cloexec = (question.head.c & wire::kCloseOnExec) != 0;
  Reply reply;
  if (question.fd_lost) return fail(Errno::Enfile);
  if (question.head.b == wire::kNoHandle) {
    if (!question.fd) return fail(Errno::Eproto);
    reply.a = static_cast<u64>(TRY(answers_.add_fd(call_, question.fd.get(), cloexec)));
    return reply;
  }
  const std::string name(reinterpret_cast<const char*>(question.payload.data()), question.payload.size());
  const host::Descriptor theirs = TRY(registry_.make(question.head.b, name, {}, O_RDWR));
  const auto number = answers_.add_fd(call_, theirs.get(), cloexec);
  if (!number) {
    registry_.forget(question.head.b);  // the kernel takes back what it could not give out
    return fail(number.error());
  }
  reply.a = static_cast<u64>(*number);
  return reply;
}

}  // namespace perdure::intercept
