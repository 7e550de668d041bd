// The descriptor of a session: holding one is the whole authority over it (kho-luo §3).
#pragma once
#include "core/luo/luo.h"

namespace perdure::luo {

class SessionFile final : public File {
 public:
  static constexpr FileType kType{"anon_inode:[luo_session]"};
  // A new session, or one that waits to be retrieved; with the errors of Luo::create_session() and retrieve_session().
  static Result<Ref<SessionFile>> create(Luo& luo, std::string_view name);
  static Result<Ref<SessionFile>> retrieve(Luo& luo, std::string_view name);

  // Exactly one of them is set.
  SessionFile(Luo& luo, Ref<OutgoingSession> outgoing, Ref<IncomingSession> incoming)
      : luo_(luo), outgoing_(std::move(outgoing)), incoming_(std::move(incoming)) {}

  const FileType& type() const override { return kType; }
  Result<u64> ioctl(Task& task, u32 cmd, UserAddr arg) override;
  std::string_view name() const { return outgoing_ ? outgoing_->name() : incoming_->name(); }

 protected:
  void last_close() override;

 private:
  Result<void> preserve_fd(Task& task, UserAddr arg, u32 size);
  Result<void> retrieve_fd(Task& task, UserAddr arg, u32 size);
  Result<void> finish(Task& task, UserAddr arg, u32 size);
  Result<void> get_name(Task& task, UserAddr arg, u32 size);

  Luo& luo_;
  Ref<OutgoingSession> outgoing_;
  Ref<IncomingSession> incoming_;
};

}  // namespace perdure::luo
