#include "core/vfio/vf_token.h"

namespace perdure::vfio {

namespace {

Result<u8> digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<u8>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<u8>(c - 'a' + 10);
  if (c >= 'A' && c <= 'F') return static_cast<u8>(c - 'A' + 10);
  return fail(Errno::Einval);
}

}  // namespace

Result<Uuid> parse_uuid(std::string_view text) {
  if (text.size() != kUuidText) return fail(Errno::Einval);
  Uuid uuid;
  usize at = 0;
  for (unsigned i = 0; i < sizeof(uuid.bytes); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) {
      if (text[at++] != '-') return fail(Errno::Einval);
    }
    const u8 high = TRY(digit(text[at]));
    const u8 low = TRY(digit(text[at + 1]));
    uuid.bytes[i] = static_cast<u8>(high << 4 | low);
    at += 2;
  }
  return uuid;
}

void VfToken::set(const Uuid& uuid) {
  MutexGuard guard(lock_);
  uuid_ = uuid;
  known_ = true;
}

bool VfToken::is(const Uuid& uuid) const {
  MutexGuard guard(lock_);
  return known_ && uuid_ == uuid;
}

Result<void> VfToken::admit_physical(const Uuid* given) {
  MutexGuard guard(lock_);
  if (users_ != 0) {
    if (!given || !known_ || uuid_ != *given) return fail(Errno::Eacces);
  } else if (given) {
    uuid_ = *given;
    known_ = true;
  }
  return {};
}

void VfToken::add_user() {
  MutexGuard guard(lock_);
  ++users_;
}

void VfToken::drop_user() {
  MutexGuard guard(lock_);
  --users_;
}

}  // namespace perdure::vfio
