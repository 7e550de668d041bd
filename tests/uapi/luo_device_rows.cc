// /dev/liveupdate: one opener, sessions by name (uapi.md 1 and 4; kho-luo 2.10 and 3).
#include <sys/mman.h>

#include "core/uapi/liveupdate.h"
#include "tests/uapi/size_rule.h"

namespace perdure::uapi_test {
namespace {

using namespace uapi;  // NOLINT(google-build-using-namespace): the structures of one API

constexpr const char* kNode = "/dev/liveupdate";

UAPI_TEST("1 /dev/liveupdate", SecondOpenIsEbusy) {
  Fd first = t.open(kNode);
  CHECK_ERRNO(t.sys.open(kNode), Errno::Ebusy);
  first.reset();
  CHECK_OK(t.sys.open(kNode));
}

}  // namespace
}  // namespace perdure::uapi_test
